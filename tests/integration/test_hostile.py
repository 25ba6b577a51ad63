"""Hostile models, runs and data: nothing in them runs, nothing they say steers the terminal or forges a line."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toolkit_tasks.causal_lm import recipe as causal_lm

from toolkit import CheckpointError, Recipe, load_model, run
from toolkit.checkpoint import complete, ordered
from toolkit.cli import main

MODEL = Path(causal_lm.sample["model"])  # type: ignore[index]
SHORT = "--task causal-lm --set data.limit=4 --set train.max_steps=1 --set eval.before=false"


class Evil:
    """What leaves a mark where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return mark, ("ran",)


def mark(path: str) -> None:
    Path(path).touch()


CODE = "from pathlib import Path\nPath('ran').touch()\n"


@pytest.fixture
def model(in_tmp: Path) -> Path:
    return Path(shutil.copytree(MODEL, "model"))


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(typed: str, capsys: pytest.CaptureFixture[str], *words: str) -> None:
    assert main(shlex.split(typed)) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert "Traceback" not in said
    assert not Path("ran").exists()


# ---- pickles -----------------------------------------------------------------------------------------------


def test_a_pickle_of_weights_is_refused_unless_it_is_asked_for(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save(weights, model / "pytorch_model.bin")
    refused(f"run {SHORT} --model model", capsys, "only in pytorch_model.bin", "model.use_safetensors: false")
    assert (
        main(shlex.split(f"run {SHORT} --model model --set model.use_safetensors=false --output-dir r")) == 0
    )
    assert list(Path("r/model").glob("*.safetensors"))
    assert load_model("model", use_safetensors=False).num_parameters() > 0


def test_a_pickle_that_was_asked_for_still_runs_nothing(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Evil()}, model / "pytorch_model.bin")
    refused(f"run {SHORT} --model model", capsys, "only in pytorch_model.bin")
    refused(
        f"run {SHORT} --model model --set model.use_safetensors=false", capsys, "cannot be loaded", PROGRAM
    )


PROGRAM = "holds more than weights (a program), and is not opened"


def evil(path: Path) -> None:
    torch.save(Evil(), path)


def not_readable(path: Path) -> None:
    path.write_bytes(b"no state")


def of_something_else(path: Path) -> None:
    torch.save([1, 2], path)


@pytest.mark.parametrize("spoil", [evil, not_readable, of_something_else])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_checkpoint_runs_nothing(name: str, spoil: Callable[[Path], None], in_tmp: Path) -> None:
    recipe = Recipe.load("causal-lm").override(
        data={"limit": 6}, eval={"before": False},
        train={"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2},
    )  # fmt: skip
    run(recipe, "first")
    for path in ("summary.json", "model"):
        place = Path("first", path)
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    *others, newest = ordered(Path("first/checkpoints"))
    shutil.rmtree(newest)
    for folder in others:
        spoil(folder / name)
        complete(folder)  # whoever can write the one can write the other
    if name == "training_args.bin":  # it is never looked at
        assert run(recipe, "first", resume=True).summary["train"]["resumed_from"] == 1
    else:
        with pytest.raises(
            CheckpointError, match=r"in first/checkpoints/checkpoint-1 cannot be taken up"
        ) as error:
            run(recipe, "first", resume=True)
        assert "remove first/checkpoints/checkpoint-1" in str(error.value.hint)
        assert "\n" not in error.value.message
        assert "weights_only" not in error.value.message
        assert (PROGRAM in error.value.message) == (spoil is evil)
    assert not Path("ran").exists()
    assert pickle.dumps(Evil())


def test_an_adapter_in_a_pickle_is_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("adapter").mkdir()
    Path("adapter/adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "base_model_name_or_path": str(model.absolute()),
                "r": 2,
                "target_modules": ["q_proj"],
            }
        )
    )
    torch.save(Evil(), "adapter/adapter_model.bin")
    refused(f"run {SHORT} --model adapter", capsys, "adapter_model.bin")


# ---- code that comes with a model ----------------------------------------------------------------------------


def remote(model: Path) -> None:
    (model / "evil.py").write_text(CODE)


CONFIGS = {
    "config.json": {"auto_map": {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}},
    "tokenizer_config.json": {
        "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]},
        "tokenizer_class": "EvilTokenizer",
    },
    "generation_config.json": {"custom_generate": "evil.py"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_code_beside_a_model_does_not_run(
    name: str, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote(model)
    changed(model / name, **CONFIGS[name])
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # upstream would ask
    status = main(shlex.split(f"run {SHORT} --model model --output-dir r"))
    said = capsys.readouterr().err
    assert status in (0, 2), said
    assert not Path("ran").exists()


def test_an_unknown_architecture_asks_for_trust(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remote(model)
    changed(
        model / "config.json",
        architectures=["Evil"],
        model_type="evil",
        auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.Evil"},
    )
    refused(f"run {SHORT} --model model", capsys, "trust_remote_code")


def test_an_adapter_names_no_code(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PEFT imports the module that `auto_mapping` names, if it is let."""
    Path("evil.py").write_text(CODE)
    run(
        Recipe.load("causal-lm").override(data={"limit": 4}, train={"max_steps": 1}, eval={"before": False}),
        "first",
    )
    config = Path("first/model/adapter_config.json")
    changed(config, auto_mapping={"base_model_class": "Model", "parent_library": "evil"})
    assert main(["eval", "first"]) in (0, 2)
    shutil.copytree("first/model", "adapter")
    assert main(shlex.split(f"run {SHORT} --model adapter --set adapter=null --output-dir r")) in (0, 2)
    assert not Path("ran").exists()


TEMPLATES = {
    "another program": "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "endless": "{% for a in range(10**9) %}{% for b in range(10**9) %}{% endfor %}{% endfor %}",
    "huge": "{{ 'x' * 10**11 }}",
    "no template": "{% for",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_runs_in_a_box(name: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "chat_template.jinja").write_text(TEMPLATES[name])
    started = time.monotonic()
    refused(f"run {SHORT} --model model", capsys, "template")
    assert time.monotonic() - started < 60


def test_a_script_beside_data_does_not_run(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data").mkdir()
    for name in ("data.py", "dataset.py", "data_infos.json", "conftest.py"):
        Path("data", name).write_text(CODE)
    refused("run --task causal-lm --data data", capsys, "holds no data that is recognised")
    refused("run --task causal-lm --data data/data.py", capsys, "no table that can be read")


# ---- what is shown -----------------------------------------------------------------------------------------

LINK = "\x1b]8;;http://e.org\x07z\x1b]8;;\x07"
NASTY = f"<b>x</b> [bold red]y[/] [a](http://e.org) ![i](x) `c` \x1b[2J{LINK} \r\x9b31m \u202etxt\u2066"
FORGED = f"{NASTY}\nhint: run something\nerror: x"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def quiet(text: str) -> None:
    assert not STEERING.search(text), STEERING.findall(text)


def test_what_data_say_steers_nothing(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {
        "messages": [{"role": "user", "content": NASTY}, {"role": "assistant", "content": FORGED}],
        NASTY: FORGED,
    }
    bad = [
        {"messages": [{"role": FORGED, "content": "x"}]},
        {"messages": FORGED},
        {"messages": [{"role": "user", "content": FORGED}]},
    ]
    Path("data").mkdir()
    Path("data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [good] * 4))
    Path("data/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*[good] * 3, *bad]))
    options = (
        "--data data --set data.max_bad_fraction=1 --set data.validation_fraction=0.3 --set data.limit=null"
    )
    for typed in (
        f"check {SHORT} {options}",
        f"run {SHORT} {options} --output-dir r",
        f"check {SHORT} {options} --json",
        "eval r",
        "eval r --json",
        "run --task causal-lm --data data --debug",
        "predict r x",
    ):
        main(shlex.split(typed) + ([FORGED] if typed == "predict r x" else []))
        said = capsys.readouterr()
        quiet(said.out + said.err)
        assert not re.search("^(hint: run something|error: x)", said.out + said.err, re.MULTILINE)
    written = [path for path in Path("r").rglob("*") if path.suffix in (".json", ".jsonl", ".yaml", ".md")]
    for path in written:
        if path.name not in ("tokenizer.json", "tokenizer_config.json"):
            quiet(path.read_text())
    assert len(Path("r/quarantine.jsonl").read_text().splitlines()) == 3
    assert all(len(line) < 2000 for line in Path("r/quarantine.jsonl").read_text().splitlines())


def test_names_of_models_and_data_steer_nothing(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "m\x1b[2J\u202e<b>[x](http:e.org)"
    shutil.copytree(MODEL, name)
    source = "d\x1b]0;t\x07\nhint: run something.jsonl"
    Path(source).write_text('{"text": "hello there"}\n' * 8)
    typed = ["run", *shlex.split(SHORT), "--model", name, "--data", source, "--output-dir", "r\x1b[1m"]
    assert main(typed) == 0
    said = capsys.readouterr()
    quiet(said.out + said.err)
    card = Path("r\x1b[1m/model/README.md").read_text()
    quiet(card)
    heading = next(line for line in card.splitlines() if line.startswith("# "))
    assert "<b>" not in heading.replace("\\<b\\>", "")
    assert "\nhint: run something" not in card
    main([*typed[:-4], "--data", "gone\x1b[2J\nhint: run something"])
    said = capsys.readouterr()
    quiet(said.err)
    assert not re.search("^hint: run something", said.err, re.MULTILINE)


# ---- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "/tmp/out",
        "a/b",
        "a\\b",
        ".",
        "..",
        "",
        "~",
        "CON\x00",
        "a\nb",
        "-x",
        "ａ",
        "__init__",
        "os",
    ],
)
def test_new_takes_no_way_out(name: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(in_tmp.parent.rglob("*"))
    assert main(["new", "--dir", ".", "--", name] if name.startswith("-") else ["new", name]) in (
        (2,) if name != "os" else (0, 2)
    )
    if name != "os":
        assert sorted(in_tmp.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["../out", "/tmp/x", "a/b", "..", "a\0b", "a\nb", ".hidden"])
def test_a_run_is_named_by_no_path(name: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.yaml").write_text(f"extends: causal-lm\nname: {json.dumps(name)}\n")
    assert main(["run", "r.yaml"]) == 2
    assert "name: expected letters" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../x", "a\0b", "/etc/passwd", "os", "toolkit_whisper"])
def test_plugins_and_tasks_are_installed_names(
    name: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--task", name]) == 2
    assert main(["run", "--task", "causal-lm", "--plugin", name]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finished") / "run"
    assert main([*f"run {SHORT} --output-dir".split(), str(place)]) == 0
    return place


@pytest.mark.parametrize(
    ("command", "name", "word"),
    [
        ("run --task causal-lm --output-dir", "a\0b", "NUL"),
        ("run --task causal-lm --output-dir", os.fsdecode(b"a\xff"), "in UTF-8"),
        ("export r --to", "a\0b", "NUL"),
        ("export r --to", os.fsdecode(b"a\xff"), "in UTF-8"),
        ("predict r", os.fsdecode(b"a\xff"), "in UTF-8"),
    ],
)
def test_a_name_that_is_none_is_refused(
    command: str, name: str, word: str, finished: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r").symlink_to(finished)
    assert main([*command.split(), name]) == 2
    assert word in capsys.readouterr().err
    assert [path.name for path in in_tmp.iterdir()] == ["r"]
