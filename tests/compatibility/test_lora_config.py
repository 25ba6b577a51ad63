"""`LoraConfig`: each field of peft 0.5 to 0.10 has the effect it had then, and stays when it is saved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForTokenClassification
from transformers.pytorch_utils import Conv1D

from tests.compatibility.bench import tiny_llama, trained
from toolkit import LoraConfig, RecipeError, adapt, load_model, notices

torch.set_num_threads(1)
IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
QV = ["q_proj", "v_proj"]
LAYERS = "base_model.model.model.layers"
pytestmark = pytest.mark.usefixtures("in_tmp")


def fitted(base: Any = None, **settings: Any) -> Any:
    """A tiny LLaMA, or `base`, after three steps with an adapter."""
    torch.manual_seed(1)
    model = adapt(
        base if base is not None else tiny_llama(), LoraConfig(**{"target_modules": QV, **settings})
    )
    trained(model=model, max_steps=3, learning_rate=1e-2)
    return model.eval()


def output(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=IDS).logits
    return logits


def assert_same_after_reload(model: Any, base: Any, tmp_path: Path) -> None:
    """With plain PEFT, from other random numbers."""
    model.save_pretrained(tmp_path)
    torch.manual_seed(9)
    again = peft.PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(output(again), output(model))
    assert not torch.equal(output(again), output(tiny_llama(len(base.model.layers))))


def adapted_layers(model: Any) -> dict[str, Any]:
    return {name: one for name, one in model.named_modules() if isinstance(one, peft.tuners.lora.LoraLayer)}


def trains(model: Any) -> set[str]:
    return {name for name, one in model.named_parameters() if one.requires_grad}


def moved(model: Any, base: Any) -> set[str]:
    """Weights of the base that are others now."""
    before = dict(base.named_parameters())
    now = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): one
        for name, one in model.named_parameters()
    }
    return {name for name in before if name in now and not torch.equal(before[name], now[name])}


# ---- one by one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [1, 5])
def test_r(r: int, tmp_path: Path) -> None:
    model = fitted(r=r, lora_alpha=3)
    for layer in adapted_layers(model).values():
        assert layer.lora_A["default"].weight.shape == (r, 16)
        assert layer.lora_B["default"].weight.shape == (16, r)
        assert layer.scaling["default"] == 3 / r
        assert torch.linalg.matrix_rank(layer.get_delta_weight("default")) <= r
    assert_same_after_reload(model, tiny_llama(), tmp_path)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj"], {f"{LAYERS}.{n}.self_attn.q_proj" for n in (0, 1)}),
        (["layers.1.self_attn.q_proj"], {f"{LAYERS}.1.self_attn.q_proj"}),
        (["layers.*.mlp.up_proj"], {f"{LAYERS}.{n}.mlp.up_proj" for n in (0, 1)}),
        (r".*\.0\..*(gate|down)_proj", {f"{LAYERS}.0.mlp.gate_proj", f"{LAYERS}.0.mlp.down_proj"}),
        (
            "all-linear",
            {f"{LAYERS}.{n}.{one}" for n in (0, 1) for one in (
                "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")},
        ),
    ],
)  # fmt: skip
def test_target_modules(targets: Any, expected: set[str], tmp_path: Path) -> None:
    model = fitted(target_modules=targets)
    assert set(adapted_layers(model)) == expected
    assert trains(model) == {f"{name}.lora_{part}.default.weight" for name in expected for part in "AB"}
    assert_same_after_reload(model, tiny_llama(), tmp_path)


def test_lora_alpha(tmp_path: Path) -> None:
    model = fitted(r=4, lora_alpha=10)
    layer = next(iter(adapted_layers(model).values()))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert layer.scaling["default"] == 10 / 4
    torch.testing.assert_close(layer.get_delta_weight("default"), 10 / 4 * b @ a)
    assert_same_after_reload(model, tiny_llama(), tmp_path)


def test_lora_dropout(tmp_path: Path) -> None:
    model = fitted(lora_dropout=0.5)
    assert all(layer.lora_dropout["default"].p == 0.5 for layer in adapted_layers(model).values())
    with torch.no_grad():
        different, steady = model.train(), output(model)
        assert not torch.equal(different.train()(input_ids=IDS).logits, different(input_ids=IDS).logits)
    assert torch.equal(output(model), steady)
    assert_same_after_reload(model, tiny_llama(), tmp_path)


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=1,
                                      eos_token_id=2))  # fmt: skip


def test_fan_in_fan_out(tmp_path: Path) -> None:
    """GPT-2's layers store (inputs, outputs), here 16 and 48."""
    model = fitted(gpt2(), target_modules=["c_attn"], r=2, fan_in_fan_out=True)
    layer = next(iter(adapted_layers(model).values()))
    assert isinstance(layer.get_base_layer(), Conv1D)
    assert layer.fan_in_fan_out
    assert layer.lora_A["default"].weight.shape == (2, 16)
    assert layer.lora_B["default"].weight.shape == (48, 2)
    assert layer.get_delta_weight("default").shape == layer.get_base_layer().weight.shape == (16, 48)
    model.save_pretrained(tmp_path)
    assert torch.equal(output(peft.PeftModel.from_pretrained(gpt2(), tmp_path)), output(model))


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_bias(bias: Any, tmp_path: Path) -> None:
    model = fitted(bias=bias)
    biases = {name for name, _ in tiny_llama().named_parameters() if name.endswith("bias")}
    of_adapted = {name for name in biases if name.split(".")[-2] in QV}
    assert biases > of_adapted
    assert moved(model, tiny_llama()) == {"none": set(), "all": biases, "lora_only": of_adapted}[bias]
    assert_same_after_reload(model, tiny_llama(), tmp_path)


def test_use_rslora(tmp_path: Path) -> None:
    model = fitted(r=9, lora_alpha=6, use_rslora=True)
    assert {layer.scaling["default"] for layer in adapted_layers(model).values()} == {6 / math.sqrt(9)}
    assert_same_after_reload(model, tiny_llama(), tmp_path)


def test_modules_to_save(tmp_path: Path) -> None:
    model = fitted(modules_to_save=["lm_head"])
    head = model.base_model.model.lm_head.modules_to_save["default"].weight
    assert head.requires_grad
    assert not torch.equal(head, tiny_llama().lm_head.weight)
    assert_same_after_reload(model, tiny_llama(), tmp_path)


def test_init_lora_weights_default_starts_as_the_base_model() -> None:
    model = adapt(tiny_llama(), LoraConfig(target_modules=QV, init_lora_weights=True))
    assert torch.equal(output(model), output(tiny_llama()))


def test_init_lora_weights_gaussian(tmp_path: Path) -> None:
    """A is normal with deviation 1/r, B is zero."""
    torch.manual_seed(0)
    model = adapt(tiny_llama(12), LoraConfig(target_modules=QV, init_lora_weights="gaussian", r=16))
    a = torch.cat([layer.lora_A["default"].weight.flatten() for layer in adapted_layers(model).values()])
    assert len(a) == 2 * 12 * 256
    assert a.std().item() == pytest.approx(1 / 16, rel=0.03)
    kurtosis = (a**4).mean() / (a**2).mean() ** 2
    assert kurtosis.item() == pytest.approx(3, abs=0.2)  # 1.8 if it were uniform, as by default
    assert_same_after_reload(fitted(init_lora_weights="gaussian"), tiny_llama(), tmp_path)


def test_init_lora_weights_pissa(tmp_path: Path) -> None:
    """The factors hold the largest singular values; what is left in the base does not train."""
    model = adapt(tiny_llama(), LoraConfig(target_modules=QV, init_lora_weights="pissa", r=3))
    torch.testing.assert_close(output(model), output(tiny_llama()), atol=1e-5, rtol=1e-5)
    weight = tiny_llama().model.layers[0].self_attn.q_proj.weight
    layer = adapted_layers(model)[f"{LAYERS}.0.self_attn.q_proj"]
    singular = torch.linalg.svdvals(weight)
    torch.testing.assert_close(torch.linalg.svdvals(layer.get_delta_weight("default"))[:3], singular[:3])
    torch.testing.assert_close(torch.linalg.svdvals(layer.base_layer.weight)[:13], singular[3:])
    assert_same_after_reload(fitted(init_lora_weights="pissa", r=3), tiny_llama(), tmp_path)


def test_init_lora_weights_pissa_niter(tmp_path: Path) -> None:
    """A fast decomposition, near the exact one; the same again from the same random state."""
    torch.manual_seed(3)
    model = adapt(tiny_llama(), LoraConfig(target_modules=QV, init_lora_weights="pissa_niter_16", r=3))
    torch.testing.assert_close(output(model), output(tiny_llama()), atol=1e-5, rtol=1e-5)
    layer = adapted_layers(model)[f"{LAYERS}.0.self_attn.q_proj"]
    singular = torch.linalg.svdvals(tiny_llama().model.layers[0].self_attn.q_proj.weight)
    torch.testing.assert_close(
        torch.linalg.svdvals(layer.get_delta_weight("default"))[:3], singular[:3], rtol=1e-3, atol=0
    )
    model.save_pretrained(tmp_path)
    torch.manual_seed(3)
    again = peft.PeftModel.from_pretrained(tiny_llama(), tmp_path)
    torch.testing.assert_close(output(again), output(model))


@pytest.mark.parametrize(("layers", "expected"), [([0, 2], {0, 2}), (1, {1})])
@pytest.mark.parametrize("targets", [QV, "all-linear", ["layers.*.self_attn.q_proj"]])
def test_layers_to_transform(layers: Any, expected: set[int], targets: Any, tmp_path: Path) -> None:
    model = fitted(tiny_llama(3), target_modules=targets, layers_to_transform=layers)
    assert {int(name.removeprefix(f"{LAYERS}.").split(".")[0]) for name in adapted_layers(model)} == expected
    assert_same_after_reload(model, tiny_llama(3), tmp_path)


@pytest.mark.parametrize("targets", [QV, "all-linear"])
def test_layers_to_transform_where_transformers_adds_the_adapter(targets: Any) -> None:
    model = tiny_llama(3)
    model.add_adapter(LoraConfig(target_modules=targets, layers_to_transform=[1]), adapter_name="mine")
    found = adapted_layers(model)
    assert found
    assert all(name.startswith("model.layers.1.") for name in found)


class Twins(nn.Module):
    """Two numbered lists whose layers bear the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.right = nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(4, 4)}) for _ in range(3)])
        self.wide = nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(4, 4)}) for _ in range(3)])


@pytest.mark.parametrize("pattern", ["right", ["right"]])
def test_layers_pattern(pattern: Any) -> None:
    config = LoraConfig(target_modules=["proj"], layers_to_transform=[0, 2], layers_pattern=pattern)
    model = adapt(Twins(), config)
    assert set(adapted_layers(model)) == {f"base_model.model.right.{n}.proj" for n in (0, 2)}


def test_rank_pattern(tmp_path: Path) -> None:
    model = fitted(r=4, rank_pattern={"v_proj": 2, r"layers\.0\.self_attn\.q_proj": 7})
    ranks = {
        name.removeprefix(f"{LAYERS}."): layer.r["default"] for name, layer in adapted_layers(model).items()
    }
    assert ranks == {
        "0.self_attn.q_proj": 7,
        "0.self_attn.v_proj": 2,
        "1.self_attn.q_proj": 4,
        "1.self_attn.v_proj": 2,
    }
    assert_same_after_reload(model, tiny_llama(), tmp_path)


def test_alpha_pattern(tmp_path: Path) -> None:
    model = fitted(r=4, lora_alpha=4, alpha_pattern={"v_proj": 12})
    scalings = {
        name.rpartition(".")[2]: layer.scaling["default"] for name, layer in adapted_layers(model).items()
    }
    assert scalings == {"q_proj": 1.0, "v_proj": 3.0}
    assert_same_after_reload(model, tiny_llama(), tmp_path)


@pytest.mark.parametrize("core", ["megatron.core", "megatron.core.of_mine"])
def test_megatron_config_and_megatron_core_are_refused_without_megatron(core: str) -> None:
    settings = {
        "target_modules": QV,
        "megatron_config": {"tensor_model_parallel_size": 2},
        "megatron_core": core,
    }
    for adapter in (settings, LoraConfig(**settings)):
        with pytest.raises(RecipeError, match=f"{core} is not installed") as caught:
            adapt(tiny_llama(), adapter)
        assert "pip install megatron-core" in str(caught.value.hint)


def test_megatron_core_alone_means_nothing() -> None:
    assert adapted_layers(adapt(tiny_llama(), LoraConfig(target_modules=QV, megatron_core="megatron.core")))


def test_use_dora(tmp_path: Path) -> None:
    """The norm of each output's weights is a number of its own, which trains."""
    model = fitted(use_dora=True)
    name, layer = next(iter(adapted_layers(model).items()))
    magnitude = layer.lora_magnitude_vector["default"].weight
    assert f"{name}.lora_magnitude_vector.default.weight" in trains(model)
    before = tiny_llama().model.layers[0].self_attn.q_proj.weight.norm(dim=1)
    assert magnitude.shape == (16,)
    assert not torch.allclose(magnitude, before)
    merged = adapted_layers(model)[name]
    merged.merge()
    torch.testing.assert_close(merged.base_layer.weight.norm(dim=1), magnitude)
    merged.unmerge()
    assert_same_after_reload(fitted(use_dora=True), tiny_llama(), tmp_path)


def test_layer_replication(tmp_path: Path) -> None:
    model = fitted(tiny_llama(3), layer_replication=[(0, 2), (1, 3)])
    layers = model.base_model.model.model.layers
    assert len(layers) == 4
    first, second = layers[1].self_attn.q_proj, layers[2].self_attn.q_proj
    assert first.base_layer.weight is second.base_layer.weight
    assert not torch.equal(first.lora_B["default"].weight, second.lora_B["default"].weight)
    assert_same_after_reload(model, tiny_llama(3), tmp_path)


# ---- LoftQ ---------------------------------------------------------------------------------------------------


def saved_llama(tmp_path: Path) -> str:
    tiny_llama().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def distance(model: Any) -> float:
    """From what the model says in full precision."""
    return (output(model) - output(tiny_llama())).norm().item()


def from_loftq(r: int, bits: int) -> LoraConfig:
    return LoraConfig(
        r=r, target_modules="all-linear", init_lora_weights="loftq", loftq_config={"loftq_bits": bits}
    )


@pytest.mark.parametrize(("bits", "r"), [(4, 2), (4, 8), (8, 8)])
def test_loftq_starts_with_what_quantization_has_lost(bits: int, r: int, tmp_path: Path) -> None:
    place, quantized = saved_llama(tmp_path), {f"load_in_{bits}bit": True}
    model = adapt(load_model(place, **quantized), from_loftq(r, bits))
    layer = adapted_layers(model)[f"{LAYERS}.0.self_attn.q_proj"]
    base = peft.utils.integrations.dequantize_module_weight(layer.base_layer)
    exact = tiny_llama().model.layers[0].self_attn.q_proj.weight
    missing = torch.linalg.svdvals(exact - base)
    left = exact - base - layer.get_delta_weight("default")
    torch.testing.assert_close(left.norm(), missing[r:].norm(), rtol=1e-3, atol=1e-5)  # Eckart and Young


@pytest.mark.parametrize(("r", "most"), [(2, 0.9), (8, 0.5)])
def test_loftq_beats_plain_quantization_before_the_first_step(r: int, most: float, tmp_path: Path) -> None:
    """In the mean of several models: random numbers, and with them a single model, differ by the processor."""
    shares = []
    for seed in range(8):
        exact = tiny_llama(seed=seed)
        place = str(tmp_path / str(seed))
        exact.save_pretrained(place)
        plain = adapt(load_model(place, load_in_4bit=True), LoraConfig(r=r, target_modules="all-linear"))
        model = adapt(load_model(place, load_in_4bit=True), from_loftq(r, bits=4))
        apart, plainly_apart = ((output(one) - output(exact)).norm().item() for one in (model, plain))
        shares.append(apart / plainly_apart)
    assert sum(shares) / len(shares) < most


def test_loftq_of_a_quantized_model_is_loaded_by_plain_peft(tmp_path: Path) -> None:
    place = saved_llama(tmp_path)
    model = fitted(load_model(place, load_in_4bit=True), init_lora_weights="loftq", r=4)
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(load_model(place, load_in_4bit=True), tmp_path / "adapter")
    assert torch.equal(output(again), output(model))


def test_loftq_quantizes_the_backbone_of_a_model_that_is_not(tmp_path: Path) -> None:
    """Five iterations of it come nearer than one; our loader quantizes again, in the same way."""
    place, losses = saved_llama(tmp_path), []
    for iterations in (1, 5):
        settings = {"loftq_bits": 4, "loftq_iter": iterations}
        config = LoraConfig(
            r=8, lora_alpha=32, target_modules=QV, init_lora_weights="loftq", loftq_config=settings
        )
        model = adapt(load_model(place), config)
        weight = adapted_layers(model)[f"{LAYERS}.0.self_attn.q_proj"].base_layer.weight
        assert len(weight.unique()) <= 16 * math.ceil(weight.numel() / 64)  # 16 levels for each 64 weights
        losses.append(distance(model))
    assert losses[1] < losses[0]
    trained(model=model, max_steps=3, learning_rate=1e-2)
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(output(load_model(tmp_path / "adapter")), output(model))


def test_loftq_gives_repeated_layers_what_their_common_weights_lack(tmp_path: Path) -> None:
    config = LoraConfig(target_modules=QV, init_lora_weights="loftq", layer_replication=[(0, 2), (0, 2)])
    model = adapt(load_model(saved_llama(tmp_path)), config)
    exact = tiny_llama().model.layers[0].self_attn.q_proj.weight
    for n in (0, 2):
        layer = adapted_layers(model)[f"{LAYERS}.{n}.self_attn.q_proj"]
        error = exact - layer.base_layer.weight - layer.get_delta_weight("default")
        assert error.norm() < 0.8 * (exact - layer.base_layer.weight).norm()


def test_loftq_config_of_peft() -> None:
    config = LoraConfig(init_lora_weights="loftq", loftq_config=peft.LoftQConfig(loftq_bits=8, loftq_iter=2))
    assert config.loftq_config == {"loftq_bits": 8, "loftq_iter": 2}


@pytest.mark.parametrize(
    ("loading", "settings", "message", "hint"),
    [
        ({}, {"loftq_bits": 3}, "loftq_bits: must be 4 or 8, found 3", "4 is usual"),
        (
            {},
            {"loftq_iter": 0},
            "loftq_iter: must be a whole number of at least 1, found 0",
            "1 gains the most",
        ),
        ({}, {"bits": 4}, "loftq_config.bits: unknown key 'bits'", "it has loftq_bits, loftq_iter"),
        (
            {"load_in_8bit": True},
            {"loftq_bits": 4},
            "4, but the model is quantized to 8 bits",
            "loftq_bits: 8",
        ),
        (
            {"load_in_4bit": True},
            {"loftq_iter": 2},
            "2 iterations would change the quantized weights",
            "leave it at 1",
        ),
    ],
)
@pytest.mark.parametrize("as_mapping", [True, False])
def test_loftq_refuses(
    loading: Any, settings: Any, message: str, hint: str, as_mapping: bool, tmp_path: Path
) -> None:
    adapter: Any = {"target_modules": QV, "init_lora_weights": "loftq", "loftq_config": settings}
    with pytest.raises(RecipeError) as caught:
        adapt(load_model(saved_llama(tmp_path), **loading), adapter if as_mapping else LoraConfig(**adapter))
    assert message in str(caught.value)
    assert hint in str(caught.value.hint)


# ---- whole configurations ------------------------------------------------------------------------------------


def t5() -> T5ForTokenClassification:
    torch.manual_seed(0)
    return T5ForTokenClassification(
        T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, num_decoder_layers=2)
    )


def steps_of(model: Any, **batch: Any) -> None:
    """A few of AdamW's, by the sum of whatever the model gives."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        outputs = model(**batch)
        getattr(outputs, "logits", outputs).square().mean().backward()
        optimizer.step()


def test_basic_configuration() -> None:
    config = LoraConfig(
        r=16,
        target_modules=["q", "v"],
        lora_alpha=32,
        lora_dropout=0.1,
        fan_in_fan_out=True,
        bias="all",
        use_rslora=True,
    )
    with pytest.warns(
        UserWarning, match="fan_in_fan_out is set to True but the target module is `torch.nn.Linear`"
    ):
        model = adapt(t5(), config)
    layers = adapted_layers(model)
    assert len(layers) == 2 * 2
    assert {layer.scaling["default"] for layer in layers.values()} == {32 / math.sqrt(16)}
    assert {name.rpartition(".")[2] for name in trains(model)} == {
        "weight",
        "bias",
    }  # the classifier has the one bias
    steps_of(model, input_ids=IDS)
    assert moved(model, t5()) == {"classifier.bias"}


class EncoderDecoder(nn.Module):
    """T5's names, and two heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder = nn.ModuleDict({part: nn.ModuleDict({"q": nn.Linear(4, 4)}) for part in
                                      ("SelfAttention", "EncDecAttention", "DenseReluDense")})  # fmt: skip
        self.classifier, self.score = nn.Linear(4, 2), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.decoder.values():
            x = part["q"](x)
        return torch.cat([self.classifier(x), self.score(x)], dim=-1)


def advanced() -> LoraConfig:
    return LoraConfig(
        r=32,
        target_modules=".*decoder.*(SelfAttention|EncDecAttention).*",
        lora_alpha=64,
        lora_dropout=0.2,
        fan_in_fan_out=False,
        bias="lora_only",
        use_rslora=False,
        modules_to_save=["classifier", "score"],
        init_lora_weights="gaussian",
    )


def test_advanced_configuration() -> None:
    model = adapt(EncoderDecoder(), advanced())
    layers = adapted_layers(model)
    assert {name.split(".")[-2] for name in layers} == {"SelfAttention", "EncDecAttention"}
    assert {layer.scaling["default"] for layer in layers.values()} == {64 / 32}
    before = {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}
    steps_of(model, x=torch.randn(3, 4))
    now = dict(model.named_parameters())
    assert {name for name in before if not torch.equal(before[name], now[name])} == set(before)
    heads = {name for name in before if "modules_to_save" in name}
    assert {name.split(".")[2] for name in heads} == {"classifier", "score"}


def test_advanced_configuration_on_a_model_that_has_one_of_the_heads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`classifier` and `score` are what PEFT too tries for any model that classifies."""
    notices._said.clear()
    config = advanced()
    config.target_modules = ".*encoder.*SelfAttention.q"
    model = adapt(t5(), config)
    assert {name for name in trains(model) if "modules_to_save" in name} == {
        f"base_model.model.classifier.modules_to_save.default.{part}" for part in ("weight", "bias")
    }
    assert "T5ForTokenClassification has no 'score'" in capsys.readouterr().err


class Patterned(nn.Module):
    """A model that has made-up names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)

        def within(layer: nn.Module, *names: str) -> nn.Module:
            for name in reversed(names):
                layer = nn.ModuleDict({name: layer})
            return layer

        self.pattern_name = nn.ModuleList(
            [within(nn.Linear(16, 16), "model", "layer", str(place), "attention") for place in range(5)]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for place, one in enumerate(self.pattern_name):
            x = one.get_submodule(f"model.layer.{place}.attention")(x)
        return x


def test_configuration_of_layers_and_patterns() -> None:
    config = LoraConfig(
        r=8,
        target_modules="all-linear",
        lora_alpha=16,
        lora_dropout=0.05,
        bias="none",
        use_rslora=True,
        layers_to_transform=[0, 1, 2],
        layers_pattern="pattern_name",
        rank_pattern={"model.layer.0.attention": 4},
        alpha_pattern={"model.layer.0.attention": 10},
    )
    model = adapt(Patterned(), config)
    found = {
        int(name.split(".")[3]): (layer.r["default"], layer.scaling["default"])
        for name, layer in adapted_layers(model).items()
    }
    assert found == {0: (4, 10 / 2), 1: (8, 16 / math.sqrt(8)), 2: (8, 16 / math.sqrt(8))}
    steps_of(model, x=torch.randn(3, 16))


def test_configuration_with_loftq_and_dora(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notices._said.clear()
    config = LoraConfig(
        r=16,
        target_modules="all-linear",
        lora_alpha=32,
        lora_dropout=0.1,
        fan_in_fan_out=True,
        bias="all",
        use_rslora=False,
        init_lora_weights="loftq",
        loftq_config={"quantization_level": 8},
        use_dora=True,
        layer_replication=[(0, 4), (2, 5)],
    )
    assert "quantization_level is called loftq_bits today" in capsys.readouterr().err
    assert config.loftq_config == {"loftq_bits": 8, "loftq_iter": 1}
    place = tmp_path / "base"
    tiny_llama(5).save_pretrained(place)
    with pytest.warns(UserWarning, match="Setting fan_in_fan_out to False"):
        model = adapt(load_model(place), config)
    assert len(model.base_model.model.model.layers) == 7
    repeated = adapt(tiny_llama(5), LoraConfig(target_modules=["q_proj"], layer_replication=[(0, 4), (2, 5)]))
    torch.testing.assert_close(output(model), output(repeated), atol=1e-4, rtol=1e-3)
    trained(model=model, max_steps=3, learning_rate=1e-2)
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(output(load_model(tmp_path / "adapter")), output(model))
