"""Frozen stages are computed once for each input, and nobody can tell the difference but by the clock."""

from __future__ import annotations

import contextlib
import inspect
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from toolkit import Stage, cache, notices
from toolkit.stages import FrozenStage, reusable, reused, stage_key, varying

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


class Encoder(nn.Module):
    """(B, length, 4) -> `last_hidden_state` (B, length, 8) and `attentions` that nobody asks for."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.dropout = nn.Linear(4, 8), nn.Dropout(dropout)
        self.rows: list[int] = []

    def forward(self, inputs: torch.Tensor, scale: float = 1.0) -> BaseModelOutput:
        self.rows.append(len(inputs))
        return BaseModelOutput(last_hidden_state=self.dropout(self.layer(inputs) * scale))


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False).eval()


ROWS = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def stage() -> Stage:
    return Stage("encoder", frozen(Encoder()))


def attached(stage: Stage, root: Path, max_gb: float = 1.0, **more: Any) -> Any:
    return reused([stage], root, max_gb, rows=6, **more)


def test_each_row_is_computed_once_in_whatever_company(stage: Stage, tmp_path: Path) -> None:
    expected = frozen(Encoder())(ROWS).last_hidden_state
    with attached(stage, tmp_path) as (one,):
        for places in ([0, 1], [1, 2, 0], [5], [2, 1, 0, 5, 3]):
            outputs = stage.module(ROWS[places])
            assert isinstance(outputs, BaseModelOutput)
            assert torch.equal(outputs.last_hidden_state, expected[places])
        assert stage.module.rows == [2, *[3, 1], 1, 1]  # once it is tried whether company matters
        assert (one.read, one.computed) == (6, 5)
    assert "forward" not in vars(stage.module)


def test_a_forward_that_others_have_put_there_is_put_back(stage: Stage, tmp_path: Path) -> None:
    own = stage.module.forward

    def doubled(inputs: torch.Tensor) -> BaseModelOutput:
        return own(2 * inputs)

    stage.module.forward = doubled
    expected = stage.module(ROWS).last_hidden_state
    assert varying([stage], lambda batch: stage.module(batch), [[ROWS[:1], ROWS[:1]]]) == []
    with attached(stage, tmp_path):
        assert torch.equal(stage.module(ROWS).last_hidden_state, expected)
    assert stage.module.forward is doubled


def test_a_later_run_reads_what_an_earlier_one_kept(stage: Stage, tmp_path: Path, capsys: Any) -> None:
    with attached(stage, tmp_path):
        expected = stage.module(ROWS).last_hidden_state
    assert "outputs for 6 rows like the first take 5.8e-07 GB in" in capsys.readouterr().err
    again = Stage("encoder", frozen(Encoder()))
    with attached(again, tmp_path):
        assert torch.equal(again.module(ROWS).last_hidden_state, expected)
        assert torch.equal(again.module(inputs=ROWS, scale=1.0).last_hidden_state, expected)
    assert again.module.rows == [1]  # to see that what is kept is still so
    assert "6 rows of it there already" in capsys.readouterr().err


def test_other_arguments_are_another_call(stage: Stage, tmp_path: Path) -> None:
    with attached(stage, tmp_path):
        one = stage.module(ROWS, scale=1.0).last_hidden_state
        two = stage.module(ROWS, scale=2.0).last_hidden_state
    torch.testing.assert_close(2 * one, two)


def test_what_a_stage_is_known_by(stage: Stage) -> None:
    key = stage_key(stage)
    assert stage_key(Stage("another name", frozen(Encoder()))) == key
    assert stage_key(Stage("encoder", frozen(Encoder()), outputs=("last_hidden_state",))) != key
    stage.module.layer.bias[3] += 1e-6
    assert stage_key(stage) != key


def test_what_trains_is_no_frozen_stage(tmp_path: Path) -> None:
    module = Encoder()
    assert not reusable(Stage("encoder", module))
    frozen(module).layer.bias.requires_grad = True
    with attached(Stage("encoder", module), tmp_path) as found:
        assert found == []
    assert not list(tmp_path.iterdir())


class Normed(nn.BatchNorm1d):
    """As libraries have their own."""


def test_rows_that_depend_on_each_other_are_not_reused() -> None:
    for norm in (nn.BatchNorm1d(4), Normed(4)):
        assert not reusable(Stage("normed", frozen(nn.Sequential(nn.Linear(4, 4), norm))))


class Asked(Encoder):
    """An encoder that is asked in several ways, some of them by arguments it does not name."""

    def forward(  # type: ignore[override]
        self, inputs: torch.Tensor, scale: float | None = 2.0, pooled: bool = False, **how: Any
    ) -> BaseModelOutputWithPooling:
        made = self.layer(inputs)
        made = made if how.get("linear", True) else made.relu()
        made = made if scale is None else made * scale
        return BaseModelOutputWithPooling(
            last_hidden_state=made, pooler_output=made.mean(1) if pooled else None
        )


@pytest.mark.parametrize(
    "ways", [[{}, {"pooled": True}], [{"linear": False}], [{"scale": None}], [{"linear": None}]]
)
def test_a_stage_answers_as_it_is_asked(ways: list[dict[str, Any]], tmp_path: Path) -> None:
    plain = frozen(Asked())
    for _ in range(2):  # the second reads what the first has kept
        stage = Stage("asked", frozen(Asked()))
        with attached(stage, tmp_path):
            for way in [*ways, *ways]:
                expected, found = plain(ROWS, **way), stage.module(ROWS, **way)
                assert expected.keys() == found.keys()
                assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_in_training_only_what_is_not_random(dropout: float, tmp_path: Path, capsys: Any) -> None:
    stage = Stage("encoder", frozen(Encoder(dropout)))
    with attached(stage, tmp_path) as (one,):
        stage.module.train()
        first, second = (stage.module(ROWS).last_hidden_state for _ in range(2))
        assert torch.equal(first, second) == (dropout == 0)
        assert stage.module.training
        stage.module.eval()
        stage.module(ROWS)
        assert one.read == (12 if dropout == 0 else 0)
    assert ("the encoder gives other values than in evaluation" in capsys.readouterr().err) == (dropout > 0)


class Noisy(nn.Module):
    """Random in training, and nothing of it says so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        noise = torch.randn_like(inputs) if self.training else 0
        return self.layer(inputs + noise)


def test_randomness_that_nothing_tells_of_is_found(tmp_path: Path) -> None:
    stage = Stage("noisy", frozen(Noisy()))
    with attached(stage, tmp_path) as (one,):
        stage.module.train()
        call = _call(ROWS)
        before = torch.get_rng_state()
        assert not one._may_be_reused(call)
        assert torch.equal(torch.get_rng_state(), before)
        assert not torch.equal(stage.module(ROWS), stage.module(ROWS))


def _call(rows: torch.Tensor) -> Any:
    from toolkit.calls import Call

    return Call.of(inspect.signature(Encoder().forward), (rows,), {})


def test_augmented_rows_are_not_kept(stage: Stage, tmp_path: Path, capsys: Any) -> None:
    with attached(stage, tmp_path, varying=["encoder"]) as (one,):
        stage.module.train()
        stage.module(ROWS)
        assert (one.read, one.computed, one.store.rows) == (0, 0, 0)
        stage.module.eval()
        stage.module(ROWS)
        assert one.store.rows == 6
    assert (
        "rows are augmented, so the encoder is computed at each step of training" in capsys.readouterr().err
    )


def test_stages_whose_inputs_vary() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.idle = frozen(Encoder()), frozen(Encoder()), frozen(Encoder())

    model = Two()
    stages = [Stage(name, getattr(model, name)) for name in ("one", "two", "idle")]
    batches = [[(ROWS[:1], ROWS[place : place + 1]) for place in places] for places in ([0, 0], [1, 2])]
    assert varying(stages, lambda batch: (model.one(batch[0]), model.two(batch[1])), batches) == ["two"]
    assert varying(stages, lambda batch: (model.one(batch[0]), model.two(batch[1])), batches[:1]) == []
    assert "forward" not in vars(model.two)


@pytest.mark.parametrize(
    "arguments",
    [(ROWS.clone().requires_grad_(),), (ROWS, torch.tensor(3.0)), (ROWS, ROWS[:2])],
    ids=["gradients", "no rows", "other rows"],
)
def test_calls_that_are_left_alone(arguments: Any, tmp_path: Path) -> None:
    class Leftover(Encoder):
        def forward(self, inputs: torch.Tensor, other: Any = None) -> BaseModelOutput:
            return super().forward(inputs)

    stage = Stage("encoder", frozen(Leftover()))
    with attached(stage, tmp_path) as (one,):
        stage.module(*arguments)
        assert (one.read, one.computed) == (0, 0)


@pytest.mark.parametrize("harm", ["flipped", "cut", "empty", "other", "name", "type", "shape", "row"])
def test_what_is_damaged_is_computed_again(harm: str, stage: Stage, tmp_path: Path, capsys: Any) -> None:
    with attached(stage, tmp_path):
        expected = stage.module(ROWS).last_hidden_state
        files = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
        for path, content in files.items():
            harmed = {
                "flipped": content[:-3] + bytes([content[-3] ^ 64]) + content[-2:],
                "cut": content[:-9],
                "empty": b"",
                "other": b"\x08" * 40,
                "name": content.replace(b"hidden_state", b"hidden_statd"),
                "type": content.replace(b"F32", b"I32"),
                "shape": content.replace(b"[3,8]", b"[8,3]"),
                "row": next(other for other in files.values() if other != content),
            }[harm]
            assert harmed != content
            path.write_bytes(harmed)
        assert torch.equal(stage.module(ROWS).last_hidden_state, expected)
        assert torch.equal(stage.module(ROWS).last_hidden_state, expected)
    assert stage.module.rows == [6, 6]
    assert "what is damaged in" in capsys.readouterr().err


class Doubled(Encoder):
    """An encoder whose code has changed, and nothing else."""

    def forward(self, inputs: torch.Tensor, scale: float = 1.0) -> BaseModelOutput:
        return super().forward(inputs, 2 * scale)


@pytest.mark.parametrize("known", [6, 2])
def test_what_is_kept_but_is_not_what_is_computed_goes(
    known: int, stage: Stage, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of another release of the code: the first row that is read tells, and none of the others is used."""
    monkeypatch.setattr("toolkit.stages.stage_key", lambda stage: "the same")
    with attached(stage, tmp_path):
        stage.module(ROWS[:known])
    other = Stage("encoder", frozen(Doubled()))
    with attached(other, tmp_path):
        for rows in (ROWS, ROWS[:4]):
            assert torch.equal(
                other.module(rows).last_hidden_state, frozen(Doubled())(rows).last_hidden_state
            )
    assert "the encoder does not compute what was kept of it" in capsys.readouterr().err
    assert len([*tmp_path.rglob("*.safetensors")]) == 6


def test_rounding_is_no_other_code(stage: Stage, tmp_path: Path) -> None:
    with attached(stage, tmp_path) as (one,):
        expected = stage.module(ROWS).last_hidden_state
        for key, row in zip(_call(ROWS).keys(), expected, strict=True):
            one.store.write(key, {"last_hidden_state": row * (1 + 1e-6)})
    with attached(stage, tmp_path):
        assert torch.equal(stage.module(ROWS).last_hidden_state, expected * (1 + 1e-6))


def test_a_stage_that_begins_to_train_is_computed(stage: Stage, tmp_path: Path, capsys: Any) -> None:
    """As where a callback thaws it."""
    with attached(stage, tmp_path) as (one,):
        stage.module(ROWS)
        stage.module.requires_grad_(True)
        stage.module(ROWS).last_hidden_state.sum().backward()
        assert stage.module.layer.weight.grad is not None  # type: ignore[union-attr]
        stage.module.requires_grad_(False)
        stage.module(ROWS)
        assert (one.read, one.computed) == (6, 6)
    assert "the encoder trains now, and is computed each time" in capsys.readouterr().err


@pytest.mark.parametrize(
    "way", ["in place", "other data", "another parameter", "through data", "a copy into data", "by numpy"]
)
def test_weights_that_change_meanwhile_are_another_stage(way: str, stage: Stage, tmp_path: Path) -> None:
    """As where a callback swaps them for their averages."""
    layer: Any = stage.module.layer
    with attached(stage, tmp_path):
        before = stage.module(ROWS).last_hidden_state
        kept = layer.weight.detach().clone()
        match way:
            case "in place":
                layer.weight.mul_(2)
            case "other data":
                layer.weight.data = kept * 2
            case "another parameter":
                layer.weight = nn.Parameter(kept * 2, requires_grad=False)
            case "through data":
                layer.weight.data.mul_(2)
            case "a copy into data":
                layer.weight.data.copy_(kept * 2)
            case "by numpy":
                layer.weight.numpy()[:] *= 2
        for _ in range(2):
            assert torch.equal(
                stage.module(ROWS).last_hidden_state,
                stage.module.__class__.forward(stage.module, ROWS).last_hidden_state,
            )
        layer.weight.copy_(kept)
        count = len(stage.module.rows)
        assert torch.equal(stage.module(ROWS).last_hidden_state, before)
        assert stage.module.rows[count:] in ([], [1]), "what was kept before is read again"


def adapted() -> nn.Module:
    from peft import LoraConfig, inject_adapter_in_model

    module = inject_adapter_in_model(
        LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False), Encoder()
    )
    return frozen(module)


def test_adapters_within_a_stage_count_as_they_are(tmp_path: Path) -> None:
    module: Any = adapted()
    stage = Stage("encoder", module)
    with attached(stage, tmp_path):
        on = module(ROWS).last_hidden_state
        module.layer.enable_adapters(False)
        off = module(ROWS).last_hidden_state
        assert not torch.allclose(on, off)
        module.layer.enable_adapters(True)
        module.requires_grad_(False)
        assert torch.equal(module(ROWS).last_hidden_state, on)
        module.layer.scaling["default"] *= 4
        more = module(ROWS).last_hidden_state
        torch.testing.assert_close(more - off, 4 * (on - off))
    key = stage_key(stage)
    module.layer.scaling["default"] *= 2
    assert stage_key(stage) != key


def test_outputs_that_are_seldom_asked_for_are_there(tmp_path: Path) -> None:
    model = whisper()
    encoder, inputs = frozen(model.get_encoder()), torch.randn(3, 8, 40)
    with attached(Stage("encoder", encoder, outputs=("last_hidden_state",)), tmp_path) as (one,):
        encoder(inputs)
        asked = encoder(inputs, output_hidden_states=True, output_attentions=True)
        assert len(asked.hidden_states) == 3
        assert asked.attentions is not None
        assert isinstance(encoder(inputs, return_dict=False), tuple)
        assert encoder(inputs, return_dict=True).last_hidden_state.shape == (3, 20, 16)
        encoder.config.output_hidden_states = True
        assert len(encoder(inputs).hidden_states) == 3
        assert (one.read, one.computed) == (3, 3)


def test_rows_are_computed_in_company_where_it_matters(tmp_path: Path) -> None:
    """The same to the last bit, whatever is there already."""

    class Particular(Encoder):
        def forward(self, inputs: torch.Tensor, scale: float = 1.0) -> BaseModelOutput:
            return super().forward(inputs, scale + (1e-7 if len(inputs) == 1 else 0.0))

    stage = Stage("encoder", frozen(Particular()))
    expected = frozen(Particular())(ROWS).last_hidden_state
    with attached(stage, tmp_path):
        stage.module(ROWS[:4])
        for rows in ([3, 4], [0, 5]):
            assert torch.equal(stage.module(ROWS[rows]).last_hidden_state, expected[rows])
        assert stage.module.rows == [4, *[2, 1], 2]


def row_on_disk(root: Path) -> int:
    """Bytes that what is kept of a row takes."""
    stage = Stage("encoder", frozen(Encoder()))
    with attached(stage, root):
        stage.module(ROWS[:1])
    return cache.kept(root)[0].bytes


def test_the_cap_and_what_has_been_unused_the_longest(tmp_path: Path, capsys: Any) -> None:
    modules, size = [frozen(Encoder()) for _ in range(3)], row_on_disk(tmp_path / "probe")
    for place, module in enumerate(modules):
        module.layer.weight.mul_(1 + place)  # type: ignore[operator, union-attr]
        with attached(Stage(f"stage {place}", module), tmp_path, max_gb=15 * size / 1e9) as (one,):
            module(ROWS)
            os.utime(one.store.folder / cache.STAGE, (place, place))
    assert [one.facts["stage"] for one in cache.kept(tmp_path)] == ["stage 1", "stage 2"]
    with attached(Stage("large", frozen(Encoder())), tmp_path, max_gb=4 * size / 1e9) as (one,):
        expected = one.stage.module(ROWS).last_hidden_state
        assert torch.equal(one.stage.module(ROWS).last_hidden_state, expected)
        assert (one.store.rows, one.read) == (4, 4)
    assert "cache: full at" in capsys.readouterr().err


def test_a_later_run_with_a_smaller_cap(stage: Stage, tmp_path: Path) -> None:
    size = row_on_disk(tmp_path / "probe")
    with attached(stage, tmp_path):
        stage.module(ROWS)
        stage.module(-ROWS)
    for shown in (11, 5):
        with attached(stage, tmp_path, max_gb=shown * size / 1e9) as (one,):
            assert one.store.rows == shown


def test_what_another_process_uses_stays(stage: Stage, tmp_path: Path) -> None:
    size = row_on_disk(tmp_path / "probe")
    with attached(stage, tmp_path) as (one,):
        stage.module(ROWS)
    with held(one, tmp_path, []) as other:
        assert cache.kept(tmp_path)[0].users == [str(other.pid)]
        second = frozen(Encoder())
        second.layer.weight.mul_(2)  # type: ignore[operator, union-attr]
        with attached(Stage("second", second), tmp_path, max_gb=6 * size / 1e9) as (two,):
            second(ROWS)
            assert (two.store.rows, one.store.folder.is_dir()) == (0, True)
    assert cache.kept(tmp_path)[0].users == [], "it was killed"


def test_a_folder_that_cannot_be_written(stage: Stage, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "frozen").write_text("a file")
    expected = frozen(Encoder())(ROWS).last_hidden_state
    with attached(stage, tmp_path):
        assert torch.equal(stage.module(ROWS).last_hidden_state, expected)
        assert torch.equal(stage.module(ROWS).last_hidden_state, expected)
    said = capsys.readouterr().err
    assert "cannot be written (Not a directory); what is there is read, nothing is added" in said


def test_nothing_is_written_through_a_link(stage: Stage, tmp_path: Path) -> None:
    with attached(stage, tmp_path / "cache") as (one,):
        expected = stage.module(ROWS).last_hidden_state
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for written in [*one.store.folder.glob("*/lock"), one.store.folder / cache.STAGE]:
        written.unlink()
        written.symlink_to(precious)
    for path in one.store.folder.glob("*/*.safetensors"):
        path.unlink()
        path.with_suffix(f".{os.getpid()}.partial").symlink_to(precious)
    with attached(stage, tmp_path / "cache"):
        assert torch.equal(stage.module(ROWS).last_hidden_state, expected)
    assert precious.read_text() == "precious"


def test_a_full_disk_in_the_middle(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with attached(stage, tmp_path) as (one,):
        expected = stage.module(ROWS[:3]).last_hidden_state
        for letter in "0123456789abcdef":
            for digit in "0123456789abcdef":  # no further file can be made
                place = one.store.folder / f"{letter}{digit}"
                if not place.exists():
                    place.write_text("in the way")
        assert torch.equal(stage.module(ROWS[:3]).last_hidden_state, expected)
        stage.module(ROWS)
        assert not list(tmp_path.rglob("*.partial"))
    assert "what is there is read, nothing is added" in capsys.readouterr().err


def whisper() -> Any:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=64, d_model=16, num_mel_bins=8, max_source_positions=20, max_target_positions=20,
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    )  # fmt: skip
    return WhisperForConditionalGeneration(config).eval()


def test_a_models_own_generation_reads_it(tmp_path: Path) -> None:
    model, inputs = whisper(), torch.randn(3, 8, 40)
    expected = model.generate(input_features=inputs, max_new_tokens=5)
    loss = model(input_features=inputs, labels=expected).loss
    frozen(model.get_encoder())
    with attached(Stage("encoder", model.get_encoder(), outputs=("last_hidden_state",)), tmp_path) as (one,):
        for _ in range(2):
            assert torch.equal(model.generate(input_features=inputs, max_new_tokens=5), expected)
            assert torch.equal(model(input_features=inputs, labels=expected).loss, loss)
        assert one.computed <= 6
        assert one.read >= 6


def test_gradients_are_those_without(tmp_path: Path) -> None:
    inputs, labels = torch.randn(3, 8, 40), torch.randint(3, 60, (3, 4))
    gradients = []
    for place in range(2):
        model = whisper().train()
        model.get_encoder().requires_grad_(False)
        stages = [Stage("encoder", model.get_encoder(), outputs=("last_hidden_state",))] if place else []
        with reused(stages, tmp_path, 1.0, rows=3):
            for _ in range(2):
                model.zero_grad()
                model(input_features=inputs, labels=labels).loss.backward()
        gradients.append([one.grad for one in model.parameters() if one.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 20
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


@pytest.mark.parametrize("way", ["transposed", "channels last", "expanded"])
def test_outputs_that_lie_otherwise_in_memory(way: str, tmp_path: Path) -> None:
    class Lying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(4, 6, 1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.layer(inputs)
            match way:
                case "transposed":
                    return outputs.transpose(1, 2)
                case "expanded":
                    return outputs[..., :1].expand(-1, -1, -1, 5)
                case _:
                    return outputs.contiguous(memory_format=torch.channels_last)

    stage, inputs = Stage("lying", frozen(Lying())), torch.randn(3, 4, 5, 5)
    expected = stage.module(inputs)
    with attached(stage, tmp_path) as (one,):
        assert all(torch.equal(stage.module(inputs), expected) for _ in range(2))
        assert (one.read, one.computed) == (3, 3)


def test_bfloat16(tmp_path: Path) -> None:
    stage = Stage("encoder", frozen(Encoder().bfloat16()))
    with attached(stage, tmp_path):
        one, two = (stage.module(ROWS.bfloat16()).last_hidden_state for _ in range(2))
    assert one.dtype == torch.bfloat16
    assert torch.equal(one, two)


HOLDS = """
import sys, time
from pathlib import Path
from toolkit.cache import TensorStore
store = TensorStore(Path(sys.argv[1]), sys.argv[2], {}, 1e9)
store.open()
with store.claimed(sys.argv[3:]) as mine:
    print(len(mine), flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def held(one: FrozenStage, root: Path, keys: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has claimed some rows."""
    command = [sys.executable, "-c", HOLDS, str(root), one.store.folder.name, *keys]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == f"{len(keys)}\n"
        try:
            yield other
        finally:
            other.kill()


def test_rows_that_another_process_computes_are_waited_for(stage: Stage, tmp_path: Path) -> None:
    expected = frozen(Encoder())(ROWS).last_hidden_state
    keys = _call(ROWS).keys()
    with attached(stage, tmp_path) as (one,), held(one, tmp_path, keys[:2]) as other:

        def done() -> None:
            for place in range(2):
                one.store.write(keys[place], {"last_hidden_state": expected[place]})
            other.kill()

        waited = threading.Timer(0.5, done)
        waited.start()
        assert torch.equal(stage.module(ROWS).last_hidden_state, expected)
        waited.join()
        assert stage.module.rows == [6, 1]  # all but the two, and whether company matters
        assert (one.read, one.computed, one.store.rows) == (0, 4, 6)


def test_rows_of_a_process_that_dies_are_computed(stage: Stage, tmp_path: Path) -> None:
    expected = frozen(Encoder())(ROWS).last_hidden_state
    with attached(stage, tmp_path) as (one,), held(one, tmp_path, _call(ROWS).keys()) as other:
        threading.Timer(0.3, other.kill).start()
        assert torch.equal(stage.module(ROWS).last_hidden_state, expected)
        assert (stage.module.rows, one.store.rows) == ([6], 6)


def test_nobody_is_waited_for_without_end(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_PATIENCE_SECONDS", 0.1)
    expected = frozen(Encoder())(ROWS).last_hidden_state
    with attached(stage, tmp_path) as (one,), held(one, tmp_path, _call(ROWS).keys()):
        assert torch.equal(stage.module(ROWS).last_hidden_state, expected)
        assert stage.module.rows == [6]


@pytest.mark.parametrize("why", ["in vain", "the run is to end"])
def test_who_is_suspended_is_waited_for_once(
    why: str, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each row, nor for each batch; and not at all where the run is to end."""
    monkeypatch.setattr(cache, "_PATIENCE_SECONDS", 0.5 if why == "in vain" else 60)
    expected = frozen(Encoder())(ROWS).last_hidden_state
    ends = why != "in vain"
    with (
        attached(stage, tmp_path, stopping=lambda: ends) as (one,),
        held(one, tmp_path, _call(ROWS).keys()),
    ):
        started = time.monotonic()
        for rows in ([0, 1, 2], [3, 4, 5]):
            assert torch.equal(stage.module(ROWS[rows]).last_hidden_state, expected[rows])
        assert time.monotonic() - started < 0.9


def test_what_another_process_has_kept_meanwhile_is_read(stage: Stage, tmp_path: Path) -> None:
    """Between the look for a row and the claim on it."""
    with attached(stage, tmp_path) as (one,):
        expected = stage.module(ROWS).last_hidden_state
        found: list[Any] = [None] * 6
        assert one._complete(_call(ROWS), _call(ROWS).keys(), found)
        assert stage.module.rows == [6]
        assert torch.equal(torch.stack([row["last_hidden_state"] for row in found]), expected)


BOTH = """
import sys
from pathlib import Path
import torch
from tests.core.test_stages import Encoder, ROWS, attached, frozen
from toolkit import Stage
torch.set_num_threads(1)
expected = frozen(Encoder())(ROWS).last_hidden_state
stage = Stage("encoder", frozen(Encoder()))
rows = torch.cat([ROWS * scale for scale in range(1, 41)])
with attached(stage, Path(sys.argv[1])) as (one,):
    print("ready", flush=True)
    sys.stdin.readline()
    for start in range(0, len(rows), 6):
        found = stage.module(rows[start : start + 6]).last_hidden_state
        assert torch.equal(found, one.compute(rows[start : start + 6]).last_hidden_state)
    print(one.computed, flush=True)
"""


def test_two_processes_do_not_compute_the_same(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    with contextlib.ExitStack() as stack:
        others = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", BOTH, str(tmp_path)], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True, env=environment)
            )
            for _ in range(2)
        ]  # fmt: skip
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
        said = [other.communicate("\n")[0] for other in others]
    assert len([*tmp_path.rglob("*.safetensors")]) == 240
    assert 240 <= sum(map(int, said)) <= 242  # each sees one row to know what they look like


def test_what_is_read_is_mapped_and_not_copied(stage: Stage, tmp_path: Path) -> None:
    with attached(stage, tmp_path) as (one,):
        stage.module(ROWS)
        key = _call(ROWS).keys()[0]
        row = one.store.read(key)
        assert str(one.store._place(key)) in Path("/proc/self/maps").read_text()
        del row
        assert str(one.store._place(key)) not in Path("/proc/self/maps").read_text()
