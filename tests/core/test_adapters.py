"""Adapters: entries stand for exactly the modules they name, and whatever names nothing is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from toolkit.adapters import LoraConfig, adapt, configure, trainable_parameters
from toolkit.errors import ModelError, RecipeError
from toolkit.modules import expand, match_modules

torch.set_num_threads(1)
BASE = "base_model.model."
LINEAR = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
          "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]  # fmt: skip
ALL: dict[str, Any] = {"target_modules": "all-linear"}
Q: dict[str, Any] = {"target_modules": ["q_proj"]}


def whisper() -> Any:
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=64, d_model=16, num_mel_bins=8, max_source_positions=20, max_target_positions=20,
            encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=32, decoder_ffn_dim=32,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )
    )  # fmt: skip


def llama(layers: int = 2) -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=layers
        )
    )  # fmt: skip


def clip() -> Any:
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": 64, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, **tower}
    return CLIPModel(
        CLIPConfig(
            text_config=text, vision_config={"image_size": 16, "patch_size": 8, **tower}, projection_dim=8
        )
    )


def trains(model: Any) -> set[str]:
    """The modules whose LoRA trains, by their names in the model, every other parameter being frozen."""
    names = [name.removeprefix(BASE) for name, one in model.named_parameters() if one.requires_grad]
    modules = {name.partition(".lora_")[0] for name in names}
    assert sorted(names) == sorted(f"{one}.lora_{part}.default.weight" for one in modules for part in "AB")
    return modules


def messages(build: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        build()
    return [fault.message for fault in caught.value.all]


# ---- what an entry stands for --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "entries", "expected"),
    [
        (llama, ["q_proj", "k_proj"], {f"model.layers.{i}.self_attn.{p}_proj" for i in (0, 1) for p in "qk"}),
        (
            whisper,
            ["decoder.layers.*.self_attn.q_proj", "decoder.layers.*.self_attn.k_proj"],
            {f"model.decoder.layers.{i}.self_attn.{p}_proj" for i in (0, 1) for p in "qk"},
        ),
        (
            clip,
            [
                "vision_model.encoder.layers.*.self_attn.q_proj",
                "vision_model.encoder.layers.*.self_attn.k_proj",
            ],
            {f"vision_model.encoder.layers.{i}.self_attn.{p}_proj" for i in (0, 1) for p in "qk"},
        ),
    ],
)
def test_lists_with_stars_train_exactly_those(build: Any, entries: list[str], expected: set[str]) -> None:
    settings = {"lora_alpha": 16, "lora_dropout": 0.1, "r": 64, "target_modules": entries}
    assert trains(adapt(build(), settings)) == expected
    model = build()  # as older scripts do it, without `adapt`
    model.add_adapter(LoraConfig(**settings), adapter_name="lora_adapter")
    model.set_adapter("lora_adapter")
    trained = {name.partition(".lora_")[0] for name, one in model.named_parameters() if one.requires_grad}
    assert trained == expected


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["model.decoder.layers.1.fc1"], ["model.decoder.layers.1.fc1"]),
        (["decoder.layers.1.fc1"], ["model.decoder.layers.1.fc1"]),
        (["coder.layers.1.fc1"], []),
        (["*coder.layers.1.fc1"], ["model.encoder.layers.1.fc1", "model.decoder.layers.1.fc1"]),
        (["decoder.*.fc1"], []),  # a star is one part, and here are two
        (["decoder.*.*.fc1"], ["model.decoder.layers.0.fc1", "model.decoder.layers.1.fc1"]),
        (["conv*"], ["model.encoder.conv1", "model.encoder.conv2"]),
        (["embed_*"], ["model.encoder.embed_positions", "model.decoder.embed_tokens", "model.decoder.embed_positions"]),
        (["decoder.layers.0.*"], ["model.decoder.layers.0.fc1", "model.decoder.layers.0.fc2"]),  # layers only
        ([""], []),
        (r".*\.decoder\..*\.(fc1|fc2)", [f"model.decoder.layers.{i}.fc{j}" for i in (0, 1) for j in (1, 2)]),
        (r"decoder.*fc1", []),  # text is for the whole name
        ("fc1", []),
    ],
)  # fmt: skip
def test_entries(entries: Any, expected: list[str]) -> None:
    (match,) = match_modules(whisper(), entries)
    assert match.entry == (entries if isinstance(entries, str) else entries[0])
    assert list(match.names) == expected


@pytest.mark.parametrize("build", [whisper, llama, clip])
def test_names_and_suffixes_mean_what_they_mean_to_peft(build: Any) -> None:
    model = build()
    names = [name for name, _ in model.named_modules() if name]
    adaptable = {name for match in match_modules(model, ".*") for name in match.names}
    suffixes = {".".join(name.split(".")[start:]) for name in names for start in range(name.count(".") + 1)}
    for match in match_modules(model, sorted(suffixes)):
        config = peft.LoraConfig(target_modules=[match.entry])
        assert set(match.names) == {name for name in adaptable if check_target_module_exists(config, name)}


@pytest.mark.parametrize("build", [whisper, llama, clip])
def test_all_linear_is_pefts(build: Any) -> None:
    ours = adapt(build(), {"target_modules": "all-linear"})
    theirs = peft.get_peft_model(build(), peft.LoraConfig(target_modules="all-linear"))
    assert trains(ours) == trains(theirs)


def test_a_regular_expression_passes_over_containers() -> None:
    tiny = T5Config(
        vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = adapt(
        T5ForConditionalGeneration(tiny), {"target_modules": ".*decoder.*(SelfAttention|EncDecAttention).*"}
    )
    attention = {f"decoder.block.0.layer.0.SelfAttention.{part}" for part in "qkvo"}
    attention |= {f"decoder.block.0.layer.1.EncDecAttention.{part}" for part in "qkvo"}
    bias = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias"
    names = {
        name.removeprefix(BASE).partition(".lora_")[0]
        for name, one in model.named_parameters()
        if one.requires_grad
    }
    assert names == attention | {bias}


def test_peft_default_where_there_is_one() -> None:
    expected = {f"model.layers.{i}.self_attn.{p}_proj" for i in (0, 1) for p in "qv"}
    assert trains(adapt(llama(), {"r": 2})) == expected


# ---- layers, exclusions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "layers", "parts"),
    [
        (ALL | {"layers_to_transform": [0, 2]}, (0, 2), LINEAR),
        (ALL | {"layers_to_transform": 1, "layers_pattern": "layers"}, (1,), LINEAR),
        ({"target_modules": ["q_proj", "self_attn.*_proj"], "layers_to_transform": [1]}, (1,), LINEAR[:4]),
        ({"target_modules": ["model.layers.0.mlp.up_proj", "up_proj"], "layers_to_transform": 2}, (2,), LINEAR[5:6]),
        ({"target_modules": ".*up.*", "layers_to_transform": 0, "layers_pattern": ["h", "layers"]}, (0,), LINEAR[5:6]),
        (ALL | {"exclude_modules": ["self_attn.*", "down_proj"]}, (0, 1, 2), LINEAR[4:6]),
        (ALL | {"exclude_modules": r".*\.(0|1)\..*|.*attn.*"}, (2,), LINEAR[4:]),
    ],
)  # fmt: skip
def test_layers_and_exclusions(settings: dict[str, Any], layers: tuple[int, ...], parts: list[str]) -> None:
    model = adapt(llama(3), settings)
    assert trains(model) == {f"model.layers.{layer}.{part}" for layer in layers for part in parts}
    saved = model.peft_config["default"]
    assert isinstance(saved.target_modules, list)
    assert saved.layers_to_transform is None
    assert saved.exclude_modules is None


def test_layer_numbers_are_pefts() -> None:
    class Tree(nn.Module):
        """A module by dotted path."""

        def put(self, path: str) -> Tree:
            first, _, rest = path.partition(".")
            if not rest:
                self.add_module(first, nn.Linear(1, 1))
            else:
                if first not in self._modules:
                    self.add_module(first, Tree())
                self.get_submodule(first).put(rest)  # type: ignore[operator]
            return self

    tree = Tree()
    for path in (
        "model.layers.1.experts.0.w",
        "model.layers.0.experts.1.w",
        "enc.h.1.w",
        "0.h.1.w",
        "a.b.2c.w",
        "w",
    ):
        tree.put(path)
    names = [name for name, module in tree.named_modules() if isinstance(module, nn.Linear)]
    for pattern in (None, "layers", "experts", ["h", "experts"]):
        settings: dict[str, Any] = {
            "target_modules": ["w"],
            "layers_to_transform": [1],
            "layers_pattern": pattern,
        }
        reference = peft.LoraConfig(**settings)
        expected = [name for name in names if name != "w" and check_target_module_exists(reference, name)]
        assert expand(tree, configure(settings)).target_modules == expected
        assert expected


def test_modules_to_save_train_whole_and_are_not_adapted() -> None:
    model = adapt(llama(), {"target_modules": ["lm_head", "q_proj"], "modules_to_save": ["lm_head"]})
    names = {name.removeprefix(BASE) for name, one in model.named_parameters() if one.requires_grad}
    lora = {f"model.layers.{i}.self_attn.q_proj.lora_{part}.default.weight" for i in (0, 1) for part in "AB"}
    assert names == lora | {"lm_head.modules_to_save.default.weight"}


def test_bias_is_pefts_decision() -> None:
    model = adapt(whisper(), {"target_modules": ["decoder.layers.*.fc1"], "bias": "all"})
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trained >= {name for name, _ in model.named_parameters() if name.endswith(".bias")}


def test_repeated_layers_have_adapters_of_their_own() -> None:
    repeat = {"target_modules": "all-linear", "layer_replication": [[0, 4], [2, 5]]}
    theirs = trains(peft.get_peft_model(llama(5), peft.LoraConfig(**repeat)))
    assert trains(adapt(llama(5), repeat)) == theirs
    assert {int(name.split(".")[2]) for name in theirs} == set(range(7))
    some = adapt(llama(5), repeat | {"target_modules": ["q_proj"], "layers_to_transform": [6]})
    assert trains(some) == {"model.layers.6.self_attn.q_proj"}


# ---- what is saved -------------------------------------------------------------------------------------


def test_saved_adapter_is_readable_and_plain_peft_loads_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = llama(3)
    base.save_pretrained(tmp_path / "base")
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    model = adapt(
        base, {"target_modules": "all-linear", "layers_to_transform": [0, 2], "init_lora_weights": False}
    )
    expected = model.eval()(torch.arange(9)[None]).logits
    model.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["target_modules"] == [f"model.layers.{i}.{part}" for i in (0, 2) for part in LINEAR]
    again = peft.PeftModel.from_pretrained(
        LlamaForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    assert torch.equal(again.eval()(torch.arange(9)[None]).logits, expected)


def test_many_names_are_saved_in_one_order() -> None:
    saved = adapt(llama(4), {"target_modules": "all-linear"}).peft_config["default"].target_modules
    assert saved == sorted(part.split(".")[1] for part in LINEAR)  # PEFT shortens 28 names to 7


class Twice(nn.Module):
    """The same names below each other: a list of names would find the teacher's too."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 2))
        self.teacher = nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(2, 2))})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x) + self.teacher["encoder"](x)


def test_a_full_name_finds_no_longer_one() -> None:
    config = configure({"target_modules": ["*coder.0"], "exclude_modules": ["teacher.encoder.0"]})
    model = adapt(Twice(), config)
    assert trains(model) == {"encoder.0"}
    assert trains(adapt(Twice(), {"target_modules": ["teacher.encoder.0"]})) == {"teacher.encoder.0"}
    assert trains(adapt(Twice(), {"target_modules": ["encoder.0"]})) == {"encoder.0", "teacher.encoder.0"}


def test_ia3_can_be_loaded_again(tmp_path: Path) -> None:
    adapt(
        llama(), peft.IA3Config(target_modules=["k_*", "down_proj"], feedforward_modules=["down_proj"])
    ).save_pretrained(tmp_path)
    again = peft.PeftConfig.from_pretrained(tmp_path)
    assert again.feedforward_modules == {f"model.layers.{i}.mlp.down_proj" for i in (0, 1)}
    assert again.target_modules == again.feedforward_modules | {
        f"model.layers.{i}.self_attn.k_proj" for i in (0, 1)
    }


def test_weights_come_from_the_global_generator() -> None:
    def drawn(seed: int) -> torch.Tensor:
        model = llama()
        torch.manual_seed(seed)
        adapted = adapt(model, {"target_modules": ["q_proj"]})
        return next(one for name, one in adapted.named_parameters() if "lora_A" in name)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_given_config_is_left_as_it_is() -> None:
    given = peft.LoraConfig(target_modules=["*_proj"], layers_to_transform=[0])
    assert trains(adapt(llama(), given)) == {f"model.layers.0.{part}" for part in LINEAR}
    assert given.target_modules == {"*_proj"}
    assert given.layers_to_transform == [0]


def test_parameters_are_counted_as_peft_counts_them() -> None:
    model = adapt(whisper(), {"r": 4, "target_modules": ["decoder.layers.*.fc1"]})
    assert trainable_parameters(model) == model.get_nb_trainable_parameters()
    assert trainable_parameters(model)[0] == 2 * 4 * (16 + 32)  # layers x rank x (in + out)


# ---- faults --------------------------------------------------------------------------------------------


def test_nearest_names() -> None:
    with pytest.raises(RecipeError) as caught:
        adapt(whisper(), {"target_modules": ["decoder.layers.*.q_prj"]})
    assert str(caught.value) == (
        "adapter.target_modules: 'decoder.layers.*.q_prj' matched no module of WhisperForConditionalGeneration "
        "(hint: nearest names: decoder.layers.*.self_attn.q_proj, decoder.layers.*.encoder_attn.q_proj)"
    )


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"target_modules": ["q_proj", "k_prj"]}, "target_modules: 'k_prj' matched no", "nearest names: k_proj"),
        ({"target_modules": ["model.layer.3.q_proj"]}, "'model.layer.3.q_proj' matched no", "model.layers.*.self"),
        ({"target_modules": ["zzz"]}, "'zzz' matched no", "there are: embed_tokens, q_proj, k_proj, v_proj"),
        ({"target_modules": "q_proj"}, "'q_proj' matched no", "go in a list: [q_proj]"),
        ({"target_modules": "layers.*.mlp.up_proj"}, "matched no", "go in a list: [layers.*.mlp.up_proj]"),
        ({"target_modules": ["all-linear"]}, "'all-linear' matched no", "write it without a list"),
        ({"target_modules": "("}, "target_modules: '(' is no regular expression", "go in a list"),
        ({"target_modules": ["layers.*.self_attn"]}, "cannot be adapted (LlamaAttention)", "self_attn.q_proj, "),
        ({"target_modules": ["norm"]}, "only what cannot be adapted (LlamaRMSNorm)", None),
        ({"target_modules": []}, "target_modules: say which modules of LlamaForCausalLM", "all-linear, or a list"),
        (ALL | {"exclude_modules": ["self_atn.*"]}, "exclude_modules: 'self_atn.*' matched no", None),
        (ALL | {"exclude_modules": "["}, "exclude_modules: '[' is no regular expression", None),
        (Q | {"exclude_modules": ["q_proj"]}, "leave no module to adapt", None),
        ({"target_modules": ["lm_head"], "modules_to_save": ["lm_head"]}, "leave no module to adapt", None),
        (Q | {"modules_to_save": ["head"]}, "modules_to_save: 'head' matched no", "lm_head"),
        (Q | {"modules_to_save": ["("]}, "modules_to_save: '(' is no regular", None),
        (Q | {"layers_to_transform": [0, 7]}, "no chosen module is in layer 7", "layers 0 to 1"),
        (Q | {"layers_to_transform": -1}, "no chosen module is in layer -1", "layers 0 to 1"),
        ({"target_modules": ["lm_head"], "layers_to_transform": 0}, "numbers no chosen module", "numbered: nothing"),
        (
            ALL | {"layers_to_transform": [0], "layers_pattern": "pattern_name"},
            'layers_pattern: "pattern_name" numbers no chosen module',
            "numbered: layers",
        ),
        (Q | {"layers_pattern": "layers"}, "layers_pattern: needs layers_to_transform", None),
        (
            Q | {"rank_pattern": {"model.layer.0.attention": 4}},
            "rank_pattern: 'model.layer.0.attention' matched no adapted module",
            "adapted: model.layers.*.self_attn.q_proj",
        ),
        (Q | {"alpha_pattern": {"k_proj": 4}}, "alpha_pattern: 'k_proj' matched no adapted", None),
        (Q | {"alpha_pattern": {"q_proj": 0.5}}, "alpha_pattern: must be a whole number", None),
        (Q | {"rank_pattern": {"(": 4}}, "rank_pattern: '(' is no regular expression", None),
        ({"r": "16"}, 'adapter.r: input should be a valid integer, found "16"', None),
        ({"r": 0}, "adapter.r: must be at least 1, found 0", None),
        ({"r": True}, "adapter.r: input should be a valid integer", None),
        ({"lora_alpha": -1}, "adapter.lora_alpha: must be at least 1", None),
        ({"lora_dropout": 2}, "adapter.lora_dropout: must be at least 0 and below 1, found 2", None),
        ({"bias": "some"}, "adapter.bias: input should be 'none', 'all' or 'lora_only'", None),
        ({"target_modules": {"q_proj": 1}}, "adapter.target_modules: input should be", None),
        ({"target_modules": 7}, "adapter.target_modules: input should be", None),
        ({"target_module": ["q_proj"]}, "adapter.target_module: unknown key", "did you mean 'target_modules'?"),
        ({"init_lora_weights": "gausian"}, 'no way to start named "gausian"', "did you mean 'gaussian'?"),
        ({"init_lora_weights": "true"}, 'no way to start named "true"', "one of true, false, gaussian"),
        ({"init_lora_weights": "eva"}, "'eva' needs a pass over the data", None),
        ({"use_dora": True, "lora_bias": True}, "adapter: The argument lora_bias=True is not supported for DoRA", None),
        ({"task_type": "CAUSAL"}, "adapter: Invalid task type: 'CAUSAL'", None),
        ({"kind": "lorra"}, 'adapter.kind: no adapter named "lorra"', "did you mean 'lora'?"),
        ({"kind": 3}, "adapter.kind: no adapter named 3", None),
    ],
)  # fmt: skip
def test_faults(settings: dict[str, Any], message: str, hint: str | None) -> None:
    with pytest.raises(RecipeError) as caught:
        adapt(llama(), settings)
    assert message in caught.value.message
    assert hint is None or hint in str(caught.value.hint)
    assert len(caught.value.all) == 1


def test_faults_come_together() -> None:
    assert len(messages(lambda: configure({"r": "16", "lora_dropout": 2, "x": 1, "bias": 0}))) == 4
    settings = {"target_modules": ["q_prj", "q_proj", "z"], "modules_to_save": ["a"], "layers_to_transform": [5],
                "rank_pattern": {"b": 1}, "exclude_modules": ["c"]}  # fmt: skip
    found = messages(lambda: adapt(llama(), settings))
    assert [one.split("'")[1] for one in found if "'" in one] == ["q_prj", "z", "c", "a"]
    assert [one for one in found if "'" not in one] == [
        "adapter.layers_to_transform: no chosen module is in layer 5"
    ]


@pytest.mark.parametrize("adapter", [None, [], "lora", 3])
def test_not_a_mapping(adapter: Any) -> None:
    assert "adapter: expected a mapping" in messages(lambda: adapt(llama(), adapter))[0]


def test_nothing_named_and_no_default() -> None:
    (message,) = messages(lambda: adapt(whisper(), {"r": 4}))
    assert message == "adapter.target_modules: say which modules of WhisperForConditionalGeneration to adapt"


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 10**13},
        {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 10**13}},
        {"kind": "prompt", "num_virtual_tokens": 10**13},
    ],
)
def test_weights_for_which_there_is_no_memory(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="adapter: its weights cannot be made: ") as caught:
        adapt(llama(), settings)
    assert "adapter.r, or num_virtual_tokens" in str(caught.value.hint)


def test_task_type_that_passes_what_the_model_does_not_read() -> None:
    (message,) = messages(lambda: adapt(whisper(), {"target_modules": ["fc1"], "task_type": "SEQ_2_SEQ_LM"}))
    assert message.endswith("WhisperForConditionalGeneration reads input_features")
    assert trains(adapt(llama(), {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}))


def test_adapting_twice_is_refused() -> None:
    model = adapt(llama(), {"target_modules": ["q_proj"]})
    with pytest.raises(ModelError, match="has an adapter already"):
        adapt(model, {"target_modules": ["k_proj"]})


def test_ten_thousand_modules_take_no_time() -> None:
    layer = {f"part{i}": nn.Identity() for i in range(5)} | {f"{p}_proj": nn.Linear(1, 1) for p in "qkvo"}
    model = nn.Module()
    model.layers = nn.ModuleList(nn.ModuleDict(dict(layer)) for _ in range(1000))
    for each in model.layers:  # named_modules names a shared module once
        for name in list(each):
            each[name] = type(each[name])(1, 1)
    assert len(list(model.named_modules())) == 10_002
    started = time.perf_counter()
    config = expand(
        model, configure({"target_modules": ["layers.*.q_proj", "*_proj"], "layers_to_transform": [1, 999]})
    )
    assert time.perf_counter() - started < 1.0
    assert config.target_modules == [f"layers.{i}.{p}_proj" for i in (1, 999) for p in "qkvo"]
