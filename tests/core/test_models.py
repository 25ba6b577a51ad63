"""Models load whole, as what they are, or not at all; and processors with them."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from toolkit.adapters import adapt
from toolkit.errors import ModelError, RecipeError
from toolkit.model_files import is_whole
from toolkit.models import load_model, load_processor
from toolkit.recipe import ModelSpec

torch.set_num_threads(1)
IDS = torch.arange(3, 11)[None]


def llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=2)
    )  # fmt: skip


def whisper() -> Any:
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=32, d_model=16, num_mel_bins=8, max_source_positions=10, max_target_positions=10,
            encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=16, decoder_ffn_dim=16,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )
    )  # fmt: skip


def clip() -> Any:
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 32, "max_position_embeddings": 10, "bos_token_id": 1, "eos_token_id": 2, **tower}
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config={"image_size": 8, "patch_size": 4, **tower}, projection_dim=8)
    )  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three models, saved."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for build in (llama, whisper, clip):
        build().save_pretrained(folder / build.__name__)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def copy(saved: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a saved model, to spoil."""
    return lambda name: Path(shutil.copytree(saved[name], tmp_path / name))


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


def same(one: Any, other: Any) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# ---- what is loaded ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "whisper", "clip"])
def test_class_is_the_one_that_the_checkpoint_names(kind: str, saved: dict[str, Path]) -> None:
    model = load_model(str(saved[kind]))
    expected = {"llama": LlamaForCausalLM, "whisper": WhisperForConditionalGeneration, "clip": CLIPModel}[
        kind
    ]
    assert type(model) is expected
    assert same(model, expected.from_pretrained(saved[kind]))
    assert all(one.requires_grad for one in model.parameters() if one.is_floating_point())


@pytest.mark.parametrize("cls", [LlamaForCausalLM, AutoModelForCausalLM])
def test_given_class(cls: Any, saved: dict[str, Path]) -> None:
    assert type(load_model(ModelSpec(str(saved["llama"])), cls)) is LlamaForCausalLM


def test_of_several_classes_the_one_for_the_checkpoint(saved: dict[str, Path]) -> None:
    classes = (WhisperForConditionalGeneration, LlamaForCausalLM)
    assert type(load_model(str(saved["llama"]), classes)) is LlamaForCausalLM
    with pytest.raises(ModelError, match="not a WhisperForConditionalGeneration"):
        load_model(str(saved["clip"]), classes)


def test_part_of_a_larger_model(saved: dict[str, Path]) -> None:
    part = load_model(saved["clip"], CLIPVisionModel)
    whole = load_model(saved["clip"])
    pixels = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
    assert torch.equal(part(pixels).last_hidden_state, whole.vision_model(pixels).last_hidden_state)


def test_checkpoint_that_names_no_class(copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    assert type(load_model(folder)) is type(AutoModel.from_pretrained(folder))


def test_name_is_the_absolute_path(
    saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(saved["llama"].parent)
    model = load_model("llama")
    assert model.name_or_path == model.config._name_or_path == str(saved["llama"])
    adapt(model, {"target_modules": ["q_proj"]}).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        saved["llama"]
    )


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.skipif(torch.accelerator.is_available(), reason="on a GPU the checkpoint's own dtype is kept")
def test_automatic_dtype_on_a_cpu(stored: torch.dtype, tmp_path: Path) -> None:
    llama().to(stored).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert {one.dtype for one in model.parameters()} == {torch.float32}
    assert model.config.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_asked_dtype(dtype: Any, saved: dict[str, Path]) -> None:
    assert load_model(saved["llama"], dtype=dtype).dtype == torch.bfloat16
    assert load_model(saved["llama"], torch_dtype=dtype).dtype == torch.bfloat16
    assert load_model(ModelSpec(str(saved["llama"]), dtype="bfloat16")).dtype == torch.bfloat16


def test_further_arguments_reach_from_pretrained(saved: dict[str, Path]) -> None:
    model = load_model(saved["llama"], attn_implementation="eager", device_map="cpu")
    assert model.config._attn_implementation == "eager"
    with pytest.raises(ModelError, match="unexpected keyword argument 'nonsense'"):
        load_model(saved["llama"], nonsense=1)


def test_new_head_is_said_to_be_untrained(saved: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    model = load_model(saved["llama"], LlamaForSequenceClassification, num_labels=3)
    assert model.score.weight.shape == (3, 16)
    assert [record.getMessage() for record in caplog.records] == [
        f"LlamaForSequenceClassification starts with random weights where {saved['llama']} has none: score.weight"
    ]


def test_other_number_of_labels_must_be_asked_for(saved: dict[str, Path], tmp_path: Path) -> None:
    load_model(saved["llama"], LlamaForSequenceClassification, num_labels=3).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"score.weight is \(3, 16\), not \(5, 16\)"):
        load_model(tmp_path, num_labels=5)
    assert load_model(tmp_path, num_labels=5, ignore_mismatched_sizes=True).score.weight.shape == (5, 16)


# ---- the hub -------------------------------------------------------------------------------------------


@pytest.fixture
def hub(copy: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was once fetched of `org/tiny`, which is all there is without a network: the files of `main`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub/models--org--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    (repository / ".no_exist" / commit).mkdir(parents=True)
    (repository / ".no_exist" / commit / "adapter_config.json").touch()
    shutil.copytree(copy("llama"), repository / "snapshots" / commit)
    return repository / "snapshots" / commit


def test_model_of_the_hub(hub: Path, saved: dict[str, Path]) -> None:
    model = load_model("org/tiny")
    assert same(model, load_model(saved["llama"]))
    assert model.name_or_path == "org/tiny"
    with pytest.raises(
        ModelError, match="org/tiny cannot be loaded: there is no such folder, and the hub cannot be"
    ):
        load_model("org/tiny", revision="other")


def test_pickles_of_the_hub_are_not_read(hub: Path) -> None:
    torch.save(load_file(hub / "model.safetensors"), hub / "pytorch_model.bin")
    (hub / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="the model org/tiny cannot be loaded"):
        load_model("org/tiny")


# ---- random weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [None, WhisperForConditionalGeneration, AutoModel])
def test_random_weights_from_the_global_generator(cls: Any, saved: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        shutil.copy(saved["whisper"] / name, tmp_path)
    settings = json.loads((tmp_path / "generation_config.json").read_text()) | {"max_length": 7}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))

    def drawn(seed: int) -> Any:
        torch.manual_seed(seed)
        return load_model(ModelSpec(str(tmp_path), from_config=True), cls)

    model = drawn(1)
    assert same(model, drawn(1))
    assert not same(model, drawn(2))
    assert model.dtype == torch.float32
    assert model.name_or_path == ""  # an adapter on it must not name a base that has other weights
    assert not model.can_generate() or model.generation_config.max_length == 7


# ---- adapters ------------------------------------------------------------------------------------------


@pytest.fixture
def adapter(saved: dict[str, Path], tmp_path: Path) -> Path:
    torch.manual_seed(0)
    settings = {"target_modules": ["q_proj"], "init_lora_weights": False}
    adapt(load_model(saved["llama"]), settings).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("cls", [None, LlamaForCausalLM, AutoModelForCausalLM])
def test_adapter_is_loaded_on_its_base_and_trains(cls: Any, adapter: Path, saved: dict[str, Path]) -> None:
    model = load_model(str(adapter), cls)
    theirs = AutoModelForCausalLM.from_pretrained(adapter).eval()
    assert torch.equal(model.eval()(IDS).logits, theirs(IDS).logits)
    assert not torch.equal(model(IDS).logits, load_model(saved["llama"])(IDS).logits)
    assert {name.split(".")[-3] for name, one in model.named_parameters() if one.requires_grad} == {
        "lora_A",
        "lora_B",
    }


def test_adapter_brings_its_generation_settings(adapter: Path) -> None:
    """As a Whisper's language, or where the turns of a chat end."""
    assert load_model(adapter).generation_config.max_length != 7
    GenerationConfig(max_length=7).save_pretrained(adapter)
    assert load_model(adapter).generation_config.max_length == 7


def test_adapter_of_the_hub_that_was_fetched_without_them(hub: Path, adapter: Path) -> None:
    (hub.parents[1] / ".no_exist" / hub.name / "config.json").touch()
    shutil.rmtree(hub)
    shutil.copytree(adapter, hub)
    (hub.parents[1] / ".no_exist" / hub.name / "adapter_config.json").unlink()
    assert torch.equal(load_model("org/tiny").eval()(IDS).logits, load_model(adapter).eval()(IDS).logits)


def test_pickled_adapter_of_the_hub_is_refused_unless_it_is_asked_for(hub: Path, adapter: Path) -> None:
    missing = hub.parents[1] / ".no_exist" / hub.name
    for name in ("config.json", "adapter_model.safetensors"):
        (missing / name).touch()
    shutil.rmtree(hub)
    shutil.copytree(adapter, hub)
    (missing / "adapter_config.json").unlink()
    torch.save(load_file(hub / "adapter_model.safetensors"), hub / "adapter_model.bin")
    (hub / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"org/tiny has no adapter_model\.safetensors") as caught:
        load_model("org/tiny")
    assert "model.use_safetensors: false" in str(caught.value.hint)
    model = load_model("org/tiny", use_safetensors=False)
    assert torch.equal(model.eval()(IDS).logits, load_model(adapter).eval()(IDS).logits)


# ---- files that lie elsewhere --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "tokenizer_config.json", "config.json", "additional_chat_templates"]
)
def test_file_of_a_model_is_no_link_out_of_its_folder(
    name: str, copy: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, secret = copy("llama"), tmp_path / "secret"
    tokenizer().save_pretrained(folder)
    load_processor(folder, AutoTokenizer)
    if name == "config.json":
        (folder / name).rename(secret)
    elif "." in name:
        secret.write_text("{}")
        (folder / name).unlink(missing_ok=True)
    else:
        secret.mkdir()
    (folder / name).symlink_to(secret)
    for load in (load_model, lambda place: load_processor(place, AutoTokenizer)):
        with pytest.raises(ModelError, match=f"{name} is a link out of the model's folder"):
            load(folder)


def test_weights_and_files_of_the_folder_may_be_links(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("llama")
    (folder / "model.safetensors").rename(tmp_path / "large")
    (folder / "model.safetensors").symlink_to(tmp_path / "large")
    (folder / "config.json").rename(folder / "real.json")
    (folder / "config.json").symlink_to("real.json")
    (tmp_path / "name").symlink_to(folder)
    assert same(load_model(tmp_path / "name"), load_model(folder))


def test_a_snapshot_of_the_hubs_cache_is_links(hub: Path, saved: dict[str, Path], tmp_path: Path) -> None:
    blobs = hub.parents[1] / "blobs"
    blobs.mkdir()
    for path in hub.iterdir():
        path.rename(blobs / path.name)
        path.symlink_to(Path("../../blobs", path.name))
    assert same(load_model(hub), load_model(saved["llama"]))
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="is a link out of the model's folder"):
        load_model(hub)


@pytest.mark.parametrize("named", ["../other/model.safetensors", "/etc/hostname", 3, None])
def test_index_names_weights_of_the_folder(named: Any, copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    names = load_file(folder / "model.safetensors").keys()
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    index = {"metadata": {}, "weight_map": None if named is None else dict.fromkeys(names, named)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        ModelError, match=r"model\.safetensors\.index\.json names .* no file of the model's folder"
    ):
        load_model(folder)


def test_adapter_is_no_link_out_of_its_folder(adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter_config.json").rename(tmp_path / "secret")
    (adapter / "adapter_config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=r"adapter_config\.json is a link out of the model's folder"):
        load_model(adapter)


def test_adapter_without_its_base(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    for base, message in (
        ("/no/such/base", "needs its base model: the folder /no/such/base"),
        (None, "does not say"),
        (str(adapter), "which is an adapter itself"),
    ):
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
        with pytest.raises(ModelError, match=message):
            load_model(adapter)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "XLORA", "adapters": {"0": "/elsewhere"}}, "needs adapters that are trained already"),
        ({"lora_dropout": float("nan")}, r"lora_dropout in adapter_config\.json of .* is nan"),
        ({"lora_alpha": float("inf")}, r"lora_alpha in adapter_config\.json of .* is inf"),
    ],
)
def test_adapter_whose_settings_are_refused(adapter: Path, settings: dict[str, Any], message: str) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | settings))
    with pytest.raises(ModelError, match=message):
        load_model(adapter)


def test_adapter_with_missing_weights(adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    del weights[min(weights)]
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="missing adapter keys"):
        load_model(adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    (adapter / "adapter_model_x.safetensors").touch()
    with pytest.raises(ModelError, match=r"has its weights only in adapter_model\.bin"):
        load_model(adapter)


# ---- faults --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"dtype": "flaot32"},
            "model.dtype: expected auto, float32, bfloat16, float16, float64, found 'flaot32'",
        ),
        ({"dtype": "Tensor"}, "model.dtype: expected"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "a model is loaded in one of them"),
        ({"load_in_4bit": True, "from_config": True}, "model.quantization: random weights"),
        ({"quantization": "5bit"}, "model.quantization: expected none, 4bit, 8bit"),
    ],
)
def test_wrong_settings(given: dict[str, Any], message: str, saved: dict[str, Path]) -> None:
    with pytest.raises(RecipeError, match=message):
        load_model(saved["llama"], **given)


def test_other_architecture(saved: dict[str, Path]) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(saved["clip"], WhisperForConditionalGeneration)
    assert caught.value.message == (
        f"{saved['clip']} holds a CLIPModel (model_type 'clip'), not a WhisperForConditionalGeneration ('whisper')"
    )
    with pytest.raises(
        ModelError, match=r"a CLIPModel \(model_type 'clip'\), which is nothing for AutoModelForCausalLM"
    ):
        load_model(saved["clip"], AutoModelForCausalLM)


def test_missing_weights(copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    weights = load_file(folder / "model.safetensors")
    for key in ("model.layers.1.mlp.up_proj.weight", "model.norm.weight"):
        del weights[key]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for cls in (None, LlamaForSequenceClassification):
        with pytest.raises(
            ModelError, match=r"lacks \d of .*'s weights: .*model.layers.1.mlp.up_proj.weight, model.norm"
        ):
            load_model(folder, cls)


def test_missing_head_of_the_same_class(copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of LlamaForCausalLM's weights: lm_head\.weight"):
        load_model(folder)


def _without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _holding(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def _changed(**values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("spoil", "message", "hint"),
    [
        (_without("config.json"), "has no config.json (it holds", "a folder that `save_pretrained` wrote"),
        (_holding("config.json", "{"), "config.json is no JSON", None),
        (_holding("config.json", "[]"), "config.json holds no settings", None),
        (_without("model.safetensors"), "has no weights in safetensors (it holds config.json", "from_config"),
        (_pickled, "has its weights only in pytorch_model.bin", "model.use_safetensors: false"),
        (_cut, "the file with the weights is damaged or cut off", "copy or download it again"),
        (
            _changed(hidden_size=32),
            "of LlamaForCausalLM's weights have another shape",
            "not of the same model",
        ),
        (_changed(architectures=["NewForCausalLM"]), "is a NewForCausalLM, which transformers", "newer"),
        (_changed(model_type="lama"), "(model_type 'lama'), not a LlamaForCausalLM ('llama')", None),
        (_changed(num_attention_heads=0), "cannot be loaded: integer modulo by zero", None),
        (_changed(hidden_size="wide"), "cannot be loaded: ", None),
        (_changed(attention_dropout=5), "attention_dropout in config.json of ", "copy or download it again"),
        (
            _changed(text_config={"embd_pdrop": -0.1}),
            "embd_pdrop in config.json of ",
            "copy or download it again",
        ),
    ],
)
def test_spoilt_folder(spoil: Any, message: str, hint: str | None, copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    spoil(folder)
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert message in caught.value.message
    assert str(folder) in caught.value.message
    assert hint is None or hint in str(caught.value.hint)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_weights_that_are_not_quantized_whatever_is_said(bits: str, copy: Callable[[str], Path]) -> None:
    pytest.importorskip("bitsandbytes")
    folder = copy("llama")
    said = {"quant_method": "bitsandbytes", f"load_in_{bits}": True}
    _changed(quantization_config=said)(folder)
    with pytest.raises(
        ModelError, match=r"says that the weights are quantized, and .*q_proj is not"
    ) as caught:
        load_model(folder)
    assert "take quantization_config out" in str(caught.value.hint)


@pytest.mark.parametrize("length", ["x", 0, float("nan")])
def test_a_tokenizer_says_how_long_texts_are(length: Any, tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"model_max_length": length}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"model_max_length in tokenizer_config\.json of "):
        load_processor(tmp_path, AutoTokenizer)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "the folder ./nowhere does not exist"),
        ("/no/where", "the folder /no/where does not exist"),
        ("~/no-such-model", "the folder ~/no-such-model does not exist"),
        ("runs/first/model", "the folder runs/first/model does not exist"),
        ("here/nowhere", "the folder here/nowhere does not exist"),
        ("file.txt", "file.txt is a file, not a model's folder"),
        ("empty", "has no config.json (it is empty)"),
        ("a~b!", "the model a~b! cannot be loaded: there is no such folder, and no hub has such a name"),
        ("org/name", "org/name cannot be loaded: there is no such folder, and the hub cannot be reached"),
    ],
)
@pytest.mark.parametrize("load", [load_model, lambda name: load_processor(name, AutoTokenizer)])
def test_names(load: Any, name: str, message: str, in_tmp: Path) -> None:
    (in_tmp / "here").mkdir()
    (in_tmp / "empty").mkdir()
    (in_tmp / "file.txt").touch()
    with pytest.raises(ModelError) as caught:
        load(name)
    if load is load_model:
        assert message in caught.value.message
    else:
        assert message.rpartition(": ")[2].replace("has no config.json ", "") in caught.value.message
    assert caught.value.hint


CODE = """
from transformers import PreTrainedConfig, PreTrainedModel
import torch

class Own(PreTrainedConfig):
    model_type = "own"

class OwnModel(PreTrainedModel):
    config_class = Own

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(2, 2)
        self.post_init()
"""


def test_code_of_the_checkpoint_runs_only_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "code"))
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(CODE)
    own = {"AutoConfig": "own.Own", "AutoModel": "own.OwnModel"}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "own", "architectures": ["OwnModel"], "auto_map": own})
    )
    save_file(
        {"layer.weight": torch.ones(2, 2), "layer.bias": torch.zeros(2)},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    for cls in (None, AutoModel):
        with pytest.raises(ModelError) as caught:
            load_model(folder, cls)
        assert "model.trust_remote_code: true" in str(caught.value.hint)
    model = load_model(ModelSpec(str(folder), trust_remote_code=True))
    assert type(model).__name__ == "OwnModel"
    assert torch.equal(model.layer.weight, torch.ones(2, 2))


# ---- processors ----------------------------------------------------------------------------------------


def test_processor(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    loaded = load_processor(ModelSpec(str(tmp_path)), AutoTokenizer)
    assert loaded("a b c").input_ids == [1, 2, 0]
    assert loaded.name_or_path == str(tmp_path)


def test_processor_of_an_adapter_is_its_own_or_the_base_models(
    copy: Callable[[str], Path], tmp_path: Path
) -> None:
    base, adapter = copy("llama"), tmp_path / "adapter"
    tokenizer().save_pretrained(base)
    adapt(load_model(base), {"target_modules": ["q_proj"]}).save_pretrained(adapter)
    assert load_processor(adapter, AutoTokenizer).name_or_path == str(base)
    tokenizer().save_pretrained(adapter)
    assert load_processor(adapter, AutoTokenizer).name_or_path == str(adapter)


@pytest.mark.parametrize("cls", [LlamaTokenizer, WhisperTokenizer])
def test_tokenizer_with_nothing_in_it_is_refused(cls: Any, saved: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer \(it holds config.json, generation_config.json"):
        load_processor(saved["llama"], cls)


def test_processor_that_is_not_there(saved: dict[str, Path]) -> None:
    with pytest.raises(ModelError) as caught:
        load_processor(saved["whisper"], WhisperProcessor)
    assert caught.value.message.startswith(
        f"no WhisperProcessor can be loaded from {saved['whisper']} (it holds config"
    )
    assert "Can't load feature extractor" in caught.value.message


# ---- noise ---------------------------------------------------------------------------------------------


def test_loading_prints_nothing_and_changes_no_setting(
    saved: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    messages = transformers.utils.logging
    before = (messages.get_verbosity(), messages.is_progress_bar_enabled(), logging.getLogger().level)
    load_model(saved["clip"], CLIPVisionModel)  # transformers would report what it leaves out
    with pytest.raises(ModelError):
        load_model(saved["llama"], CLIPModel)
    assert tuple(capfd.readouterr()) == ("", "")
    assert (messages.get_verbosity(), messages.is_progress_bar_enabled(), logging.getLogger().level) == before
    LlamaForCausalLM.from_pretrained(saved["llama"])
    assert "Loading weights" in capfd.readouterr().err


def test_an_auto_class_takes_no_part_of_a_model_for_the_whole(tmp_path: Path) -> None:
    """Whisper's decoder alone could be loaded as a causal language model, and would be."""
    from transformers import AutoModelForCausalLM, LlamaConfig, WhisperConfig

    WhisperConfig(architectures=["WhisperForConditionalGeneration"]).save_pretrained(tmp_path / "speech")
    with pytest.raises(ModelError, match="which is nothing for AutoModelForCausalLM") as caught:
        load_model(tmp_path / "speech", AutoModelForCausalLM)
    assert caught.value.hint == "name another model, or run a task for 'whisper'"
    LlamaConfig(architectures=["LlamaForSequenceClassification"]).save_pretrained(tmp_path / "classes")
    with pytest.raises(
        ModelError, match=r"a LlamaForSequenceClassification \(model_type 'llama'\), which is nothing"
    ):
        load_model(tmp_path / "classes", AutoModelForCausalLM)


@pytest.mark.parametrize("named", [{"a": "../secret.safetensors"}, {"a": ["x"]}, ["x"], None])
def test_an_index_that_names_no_weights_is_refused(
    named: Any, saved: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(saved["llama"], tmp_path / "model")
    assert is_whole(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    with pytest.raises(ModelError, match="which is no file of the model's folder"):
        is_whole(folder)
