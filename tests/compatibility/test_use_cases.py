"""The three use cases in `examples/`, as task files and as scripts: both say the same, and they work."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import soundfile
import torch
import transformers
from toolkit_tasks import causal_lm, clip_contrastive, whisper_asr
from torch.nn.functional import cross_entropy
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from tests.plugins.whisper.conftest import nano_whisper
from toolkit import LoraConfig, Recipe, Trainer, TrainingArguments, load_model, load_run
from toolkit.cli import main
from toolkit.quantization import keep_unpacked, quantization_arguments
from toolkit.recipe import ModelSpec
from toolkit.spellings import modern

ROOT = Path(__file__).parents[2]
README = (ROOT / "examples/README.md").read_text()
LORA = {"lora_alpha": 16, "lora_dropout": 0.1, "r": 64}
"""In all three."""
TRAIN = {"evaluation_strategy": "epoch", "num_train_epochs": 3, "weight_decay": 0.01}
LOGGED = {"logging_dir": "./logs", "logging_steps": 10, "save_total_limit": 3, "save_steps": 500}


@dataclass(frozen=True)
class Case:
    """What a use case is, what stands in for its model and data, and which modules that adapts."""

    name: str
    cls: Any
    targets: list[str]
    train: dict[str, Any]
    sample: Path
    adapted: set[str]
    unlike: frozenset[str] = frozenset()
    """Settings that the task file has beyond these, and that change nothing about what is learnt."""


def sample(recipe: Recipe) -> Path:
    assert recipe.sample is not None
    return Path(recipe.sample["model"]).parent


def queries_and_keys(stem: str, layers: int) -> set[str]:
    return {f"{stem}.{layer}.self_attn.{part}_proj" for layer in range(layers) for part in "qk"}


def batches(size: int) -> dict[str, int]:
    return {"per_device_train_batch_size": size, "per_device_eval_batch_size": size}


CASES = [
    Case(
        name="llama",
        cls=transformers.AutoModelForCausalLM,
        targets=["q_proj", "k_proj"],
        train={**TRAIN, **batches(4), "learning_rate": 2e-5},
        sample=sample(causal_lm.recipe),
        adapted=queries_and_keys("model.layers", 4),
        unlike=frozenset({"save_strategy", "save_total_limit", "logging_steps"}),
    ),
    Case(
        name="whisper",
        cls=transformers.WhisperForConditionalGeneration,
        targets=["decoder.layers.*.self_attn.q_proj", "decoder.layers.*.self_attn.k_proj"],
        train={**TRAIN, **LOGGED, **batches(8), "eval_steps": 500, "learning_rate": 1e-5},
        sample=sample(whisper_asr.recipe),
        adapted=queries_and_keys("model.decoder.layers", 2),
        unlike=frozenset({"save_strategy"}),
    ),
    Case(
        name="clip",
        cls=transformers.CLIPModel,
        targets=[
            "vision_model.encoder.layers.*.self_attn.q_proj",
            "vision_model.encoder.layers.*.self_attn.k_proj",
        ],
        train={**TRAIN, **LOGGED, **batches(4), "eval_steps": 500, "learning_rate": 5e-5},
        sample=sample(clip_contrastive.recipe),
        adapted=queries_and_keys("vision_model.encoder.layers", 2),
        unlike=frozenset({"save_strategy"}),
    ),
]
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def typed(program: str, name: str) -> list[str]:
    """What the README tells to type for an output folder of that name, without the program."""
    [line] = [shlex.split(line) for line in README.splitlines() if re.search(rf"^{program} .*/{name}$", line)]
    return line[1:]


def recipe_of(case: Case) -> Recipe:
    return Recipe.load(ROOT / f"examples/{case.name}/{case.name}.yaml")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the README's commands are typed, and what they write goes."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("examples", "tasks"):
        (folder / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        yield folder


# ---- what they say -----------------------------------------------------------------------------------------


@each
def test_task_file_says_what_the_use_case_is(case: Case) -> None:
    recipe = recipe_of(case)
    recipe.validate()
    assert recipe.model.quantization == "4bit"
    assert recipe.adapter is not None
    assert {key: recipe.adapter[key] for key in (*LORA, "target_modules")} == {
        **LORA,
        "target_modules": case.targets,
    }
    assert {key: recipe.train.get(key) for key in modern(case.train)} == modern(case.train)
    assert set(recipe.train) - set(modern(case.train)) == case.unlike
    assert recipe.train["save_strategy"] == ("steps" if "save_steps" in case.train else "epoch")


@each
def test_readme_says_what_the_task_file_says(case: Case) -> None:
    recipe = recipe_of(case)
    [row] = [line for line in README.splitlines() if line.startswith(f"| [{case.name}]")]
    _, _, model, _, _, rate, batch, _ = (cell.strip() for cell in row.split("|"))
    assert model == f"`{recipe.model.name}`"
    assert (float(rate), int(batch)) == (
        case.train["learning_rate"],
        case.train["per_device_train_batch_size"],
    )
    assert recipe.data.source.removeprefix("examples/") in README


@each
def test_readme_tells_to_run_the_real_ones(case: Case) -> None:
    assert typed("toolkit", case.name) == [
        "run",
        f"examples/{case.name}/{case.name}.yaml",
        "--output-dir",
        f"runs/{case.name}",
    ]
    assert typed("python", case.name) == [
        f"examples/{case.name}/finetune.py",
        "--output-dir",
        f"results/{case.name}",
    ]


def test_files_that_the_readme_names_exist() -> None:
    for name in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (ROOT / "examples" / name).exists()


# ---- scripts -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """A script that has been carried out: its variables, and what it printed."""

    case: Case
    variables: dict[str, Any]
    printed: str

    def __getattr__(self, name: str) -> Any:
        return self.variables[name]

    def outputs(self, model: Any) -> torch.Tensor:
        """Of the first rows that are evaluated, in evaluation mode."""
        rows = self.trainer.eval_dataset
        batch = self.trainer.data_collator([rows[place] for place in range(4)])
        with torch.no_grad():
            outputs = model.eval()(**batch)
        return outputs.logits_per_image if self.case.name == "clip" else outputs.logits  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def ran(request: pytest.FixtureRequest, desk: Path) -> Ran:
    """The script on the sample, as the README has it, for a few steps."""
    case, printed = request.param, io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [*typed("python", f"{case.name}-sample"), "--max-steps", "20"])
        variables = runpy.run_path(sys.argv[0], run_name="__main__")
    return Ran(case, variables, printed.getvalue())


def test_script_says_what_the_task_file_says(ran: Ran) -> None:
    recipe = recipe_of(ran.case)
    assert isinstance(ran.lora_config, LoraConfig)
    assert {key: getattr(ran.lora_config, key) for key in LORA} == LORA
    assert isinstance(ran.training_args, TrainingArguments)
    theirs = {key: getattr(ran.training_args, key) for key in modern(ran.case.train)}
    assert theirs == {key: recipe.train[key] for key in theirs}
    defaults = ran.parser.parse_args([])
    assert defaults.model == recipe.model.name
    assert recipe.data.source in str(defaults.data)


def test_script_trains_what_it_names_on_weights_in_4_bits(ran: Ran) -> None:
    trained = {name: one for name, one in ran.model.named_parameters() if one.requires_grad}
    parts = [f"lora_{part}.lora_adapter.weight" for part in "AB"]
    assert set(trained) == {f"{module}.{part}" for module in ran.case.adapted for part in parts}
    assert all(one.any() for name, one in trained.items() if "lora_B" in name), "they start at zero"
    for module in ran.case.adapted:
        assert isinstance(ran.model.get_submodule(module).base_layer, bitsandbytes.nn.Linear4bit)
    heads = {"lm_head", "proj_out", "visual_projection", "text_projection"}
    assert {
        name
        for name, one in ran.model.named_modules()
        if type(one) is torch.nn.Linear and "lora_" not in name
    } <= heads


def test_script_learns_answers_and_nothing_else(ran: Ran) -> None:
    rows = ran.trainer.eval_dataset
    batch = ran.trainer.data_collator([rows[place] for place in range(2)])
    if ran.case.name == "clip":
        with torch.no_grad():
            outputs = ran.model.eval()(**batch)
        scores, right = outputs.logits_per_image, torch.arange(2)
        both = cross_entropy(scores, right) + cross_entropy(scores.T, right)
        torch.testing.assert_close(outputs.loss, both / 2)
        return
    expected = {
        "llama": "At once. November comes before December. I remain at your service.<|im_end|>",
        "whisper": "<|notimestamps|>Turn on the red radio in the bedroom.<|endoftext|>",
    }
    tokenizer = getattr(ran.trainer.processing_class, "tokenizer", ran.trainer.processing_class)
    learnt = batch["labels"][0][batch["labels"][0] != -100]
    assert tokenizer.decode(learnt) == expected[ran.case.name]


def test_script_lowers_the_loss(ran: Ran) -> None:
    rows = [ran.trainer.train_dataset[place] for place in range(32)]
    after = ran.trainer.evaluate(rows)["eval_loss"]
    ran.model.disable_adapters()
    before = ran.trainer.evaluate(rows)["eval_loss"]
    ran.model.enable_adapters()
    assert after < before
    assert ran.eval_results["eval_loss"] > 0
    assert f"Evaluation results: {ran.eval_results}" in ran.printed


def test_what_a_script_saves_is_what_it_trained(ran: Ran) -> None:
    """Loaded by the library as the script does, and by transformers alone, with the weights left unpacked."""
    expected = ran.outputs(ran.model)
    assert torch.equal(ran.outputs(ran.reloaded), expected)
    with ran.reloaded.disable_adapter():
        assert not torch.equal(ran.outputs(ran.reloaded), expected)
    quantized = quantization_arguments(ModelSpec(quantization="4bit"))
    plain = ran.case.cls.from_pretrained(ran.adapter, **quantized)
    keep_unpacked(plain)
    assert torch.equal(ran.outputs(plain), expected)


def test_script_uses_what_it_reloaded(ran: Ran) -> None:
    *_, asked, answer = ran.printed.splitlines()
    assert answer.startswith("-> ")
    if ran.case.name == "llama":
        assert answer == f"-> {ran.answer}" != "-> "
    if ran.case.name == "whisper":
        assert (asked, answer) == (
            "Turn on the red radio in the bedroom.",
            "-> turn on the red radio in the bedroom",
        )
    if ran.case.name == "clip":
        captions = [row["caption"] for row in ran.rows]
        assert re.fullmatch(r"-> (.*) \(0\.\d\d\)", answer)[1] in captions  # type: ignore[index]


def test_a_multilingual_whisper_is_told_the_language(tmp_path: Path, desk: Path) -> None:
    """As the large one is: in training, and by what is saved also afterwards."""
    model, processor = nano_whisper(languages=list(LANGUAGES), multilingual=True)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        soundfile.write(tmp_path / split / "a.wav", torch.randn(8_000).numpy(), 8_000)
        (tmp_path / split / "metadata.csv").write_text("file_name,transcription\na.wav,Guten Tag\n")
    given = [
        "--model",
        str(tmp_path / "model"),
        "--data",
        str(tmp_path),
        "--language",
        "de",
        "--max-steps",
        "1",
    ]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(
            sys, "argv", ["examples/whisper/finetune.py", *given, "--output-dir", str(tmp_path / "out")]
        )
        script = runpy.run_path(sys.argv[0], run_name="__main__")
    [labels] = script["collate"](script["dataset"]["train"])["labels"]
    learnt = script["processor"].tokenizer.decode(labels)
    assert learnt == "<|de|><|transcribe|><|notimestamps|>Guten Tag<|endoftext|>"
    assert script["reloaded"].generation_config.language == "de"
    assert script["tokens"].shape[1] > 1


# ---- task files --------------------------------------------------------------------------------------------

QUICK = ["train.max_steps=30", "train.learning_rate=1e-3", "eval.max_samples=48"]


@each
def test_task_file_works(case: Case, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the README has it, for a few steps, at a learning rate that moves so small a model."""
    typed_in = typed("toolkit", f"{case.name}-sample")
    assert main(typed_in + [part for one in QUICK for part in ("--set", one)]) == 0, capsys.readouterr().err
    run = load_run(typed_in[-1])
    assert run.summary["after"]["loss"] < run.summary["before"]["loss"]
    assert run.evaluate()["metrics"] == run.summary["after"]
    wrapped = run.model.get_base_model()
    layers = {name for name, one in wrapped.named_modules() if hasattr(one, "lora_A")}
    assert layers == case.adapted
    assert all(
        isinstance(wrapped.get_submodule(one).base_layer, bitsandbytes.nn.Linear4bit) for one in layers
    )
    inputs = {
        "llama": ["What is two plus ten?"],
        "whisper": [str(case.sample / "data/test/test_000.flac")],
        "clip": [str(case.sample / "data/test/test_000.png"), "one red ring", "three purple triangles"],
    }
    capsys.readouterr()
    assert main(["predict", typed_in[-1], *inputs[case.name], "--json"]) == 0
    [prediction] = json.loads(capsys.readouterr().out)["predictions"]
    assert prediction["output"]


def test_the_four_sentences_are_learnt(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the recipe itself names as data, with words for labels 1 and 0."""
    sentences = {
        "train": {"I love this product!": 1, "This is the worst thing I've ever bought.": 0},
        "validation": {"Absolutely fantastic!": 1, "Terrible quality, very disappointed.": 0},
    }
    for split, labels in sentences.items():
        rows = [
            json.loads(line)
            for line in Path(f"examples/llama/reviews/{split}.jsonl").read_text().splitlines()
        ]
        assert rows == [
            {"prompt": f"Review: {text}\nSentiment:", "completion": " positive" if label else " negative"}
            for text, label in labels.items()
        ]
    command = ["run", "examples/llama/llama.yaml", "--model", "sample", "--output-dir", "runs/reviews"]
    assert main([*command, "--set", "train.learning_rate=1e-2"]) == 0, capsys.readouterr().err
    run = load_run("runs/reviews")
    assert run.summary["rows"] == {"train": 2, "validation": 2, "test": 0, "quarantined": 0}
    assert run.summary["after"]["loss"] < run.summary["before"]["loss"]


# ---- resuming ----------------------------------------------------------------------------------------------


def test_an_added_adapter_on_4_bits_resumes(desk: Path) -> None:
    """A run that was stopped after two steps of four ends as one that was not."""

    def trainer() -> Trainer:
        torch.manual_seed(0)
        model = load_model(CASES[0].sample / "model", CASES[0].cls, load_in_4bit=True)
        model.add_adapter(LoraConfig(**LORA, target_modules=CASES[0].targets), adapter_name="lora_adapter")
        model.set_adapter("lora_adapter")
        args = TrainingArguments(
            output_dir="resumed", evaluation_strategy="epoch", max_steps=4, save_steps=2, learning_rate=1e-3,
            per_device_train_batch_size=2, report_to="none", disable_tqdm=True,
        )  # fmt: skip
        rows = [{"input_ids": [3 + place, 4, 5], "labels": [3 + place, 4, 5]} for place in range(8)]
        return Trainer(model=model, args=args, train_dataset=rows, eval_dataset=rows[:2])

    def adapter(made: Trainer) -> torch.Tensor:
        return torch.cat([one.detach().flatten() for one in made.model.parameters() if one.requires_grad])

    whole, resumed = trainer(), trainer()
    whole.train()
    assert not torch.equal(adapter(resumed), adapter(whole))
    resumed.train(resume_from_checkpoint="resumed/checkpoint-2")
    assert torch.equal(adapter(resumed), adapter(whole))
