from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from tests.core.test_base_model import adapted as adapted
from tests.core.test_base_model import loads_anything as loads_anything
from tests.core.test_reliability import in_a_process
from toolkit import CheckpointError, Recipe, Run, load_run, run
from toolkit.cli import main
from toolkit.errors import Interrupted
from toolkit.export import refuse_if_changed, same_outputs
from toolkit.opening import open_trained

IDS = torch.tensor([[3, 4, 5, 6, 7]])


@pytest.fixture
def finished(adapted: Recipe) -> Run:
    return run(adapted.override(adapter={"r": 4, "target_modules": "all-linear"}), "first")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def test_without_merge_the_model_is_copied(finished: Run) -> None:
    document = load_run("first").export("out/adapter")
    assert contents(Path("out/adapter")) == contents(Path("first/model"))
    assert {"adapter_model.safetensors", "generation_config.json", "README.md"} <= names("out/adapter")
    folder = str(Path("out/adapter").absolute())
    assert document == {"folder": folder, "merged": False, "compared": None, "note": None}
    assert names("out") == {"adapter"}


def test_merged_weights_say_what_base_and_adapter_say(finished: Run) -> None:
    document = load_run("first").export("merged", merge=True)
    base = LlamaForCausalLM.from_pretrained("base")
    before = base(IDS).logits
    adapted_logits = PeftModel.from_pretrained(base, "first/model").eval()(IDS).logits
    merged_logits = LlamaForCausalLM.from_pretrained("merged")(IDS).logits
    torch.testing.assert_close(merged_logits, adapted_logits, rtol=1e-4, atol=1e-5)
    assert (merged_logits - before).abs().max() > 0.01
    assert document["merged"] is True
    assert document["compared"]["rows"] == 6
    assert document["compared"]["merged"] == pytest.approx(document["compared"]["unmerged"], rel=1e-5)
    assert document["compared"]["unmerged"] == pytest.approx(finished.summary["after"], rel=1e-5)
    assert not [name for name in names("merged") if "adapter" in name]
    card = Path("merged/README.md").read_text()
    assert "library_name: transformers" in card
    assert "merged" in card


def test_an_adapter_of_a_4_bit_base_goes_into_the_full_precision_one(loads_anything: Recipe) -> None:
    pytest.importorskip("bitsandbytes")
    adapter = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    run(loads_anything.override(model={"quantization": "4bit"}, adapter=adapter), "first")
    load_run("first").export("merged", merge=True)
    assert "quantization_config" not in json.loads(Path("merged/config.json").read_text())
    name = "model.layers.0.self_attn.q_proj"
    trained = load_file("first/model/adapter_model.safetensors")
    down, up = (trained[f"base_model.model.{name}.lora_{letter}.weight"] for letter in "AB")
    expected = load_file("base/model.safetensors")[f"{name}.weight"] + 8 / 4 * up @ down
    torch.testing.assert_close(load_file("merged/model.safetensors")[f"{name}.weight"], expected)
    assert up.abs().max() > 0


def test_merging_is_measured_on_few_rows(adapted: Recipe) -> None:
    lines = Path("data/test.jsonl").read_text()
    Path("data/test.jsonl").write_text(lines * 4)
    run(adapted, "first")
    assert load_run("first").export("merged", merge=True)["compared"]["rows"] == 16


def test_without_the_rows_nothing_is_compared_and_it_says_so(finished: Run) -> None:
    Path("data").rename("away")
    document = load_run("first").export("merged", merge=True)
    assert document["compared"] is None
    assert "not compared" in document["note"]
    assert "data does not exist" in document["note"]
    assert Path("merged/model.safetensors").is_file()


def test_all_weights_are_copied_and_it_says_so(adapted: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    run(adapted.override(adapter=None), "first")
    capsys.readouterr()
    assert main(["export", "first", "--to", "out", "--merge"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("note: the run trained every weight: there is nothing to merge")
    assert said[1] == f"exported to {Path('out').absolute()}"
    assert contents(Path("out")) == contents(Path("first/model"))


def test_one_document_with_json(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["export", "first", "--to", "merged", "--merge", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"folder", "merged", "compared", "note"}
    assert set(document["compared"]) == {"split", "rows", "unmerged", "merged", "outputs"}


BETTER_UP = {"accuracy": True, "loss": False, "bleu": True}


@pytest.mark.parametrize(
    ("unmerged", "merged", "quantized", "refused"),
    [
        ({"loss": 2.0}, {"loss": 2.02}, False, False),
        ({"loss": 2.0}, {"loss": 2.04}, False, True),
        ({"loss": 2.0}, {"loss": 1.96}, False, True),  # better for no reason
        ({"loss": 2.0}, {"loss": 1.5}, True, False),  # the full-precision base is
        ({"loss": 2.0}, {"loss": 2.1}, True, False),
        ({"loss": 2.0}, {"loss": 2.2}, True, True),
        ({"accuracy": 0.5, "loss": 1.0}, {"accuracy": 0.6, "loss": 1.0}, True, False),
        ({"accuracy": 0.5, "loss": 1.0}, {"accuracy": 0.4, "loss": 1.0}, True, True),
        ({"bleu": float("nan")}, {"bleu": float("nan")}, False, False),
        ({"bleu": 0.3}, {"bleu": float("nan")}, False, True),
        ({"bleu": 0.3}, {"bleu": float("nan")}, True, True),
        ({"bleu": 0.3}, {"bleu": float("inf")}, True, True),
    ],
)
def test_how_far_a_metric_may_move(
    unmerged: dict[str, float], merged: dict[str, float], quantized: bool, refused: bool
) -> None:
    if not refused:
        refuse_if_changed(unmerged, merged, BETTER_UP, quantized=quantized)
        return
    with pytest.raises(CheckpointError, match=r"merging changes the model: .* merged, .* unmerged") as caught:
        refuse_if_changed(unmerged, merged, BETTER_UP, quantized=quantized)
    assert ("quantized" in str(caught.value.hint)) == quantized


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("loss", "nan", "1"), ("loss", "nan", "nan"), ("loss", "inf", "1"), ("loss", "-inf", "1"),
        ("loss", "inf", "inf"), ("bleu", "nan", "0.3"), ("bleu", "inf", "0.3"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_compared_with_nothing(name: str, before: str, after: str) -> None:
    with pytest.raises(CheckpointError, match=f"cannot be compared with the unmerged one, whose {name} is"):
        refuse_if_changed({name: float(before)}, {name: float(after)}, BETTER_UP, quantized=False)


def test_an_adapter_that_drifts_from_its_4_bit_base_is_refused_with_the_way_out(
    loads_anything: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    adapter = {"r": 4, "target_modules": ["q_proj"]}
    run(loads_anything.override(model={"quantization": "4bit"}, adapter=adapter), "first")
    monkeypatch.setattr("toolkit.export.open_trained", drifted)
    with pytest.raises(CheckpointError, match="merging changes the model: loss is") as caught:
        load_run("first").export("new/merged", merge=True)
    assert "export it without --merge, or train without model.quantization" in str(caught.value.hint)
    assert not Path("new").exists()


def drifted(*arguments: Any, full_precision: bool = False) -> Any:
    """`open_trained`, whose full-precision base has other weights than the 4-bit one was made of."""
    model, processor = open_trained(*arguments, full_precision=full_precision)
    if full_precision:
        with torch.no_grad():
            model.get_base_model().lm_head.weight.mul_(100)
    return model, processor


def test_outputs_are_compared_too() -> None:
    answers = {row: f"answer {row}" for row in range(8)}
    assert same_outputs(answers, answers, quantized=False) == {"same": 8, "of": 8}
    assert same_outputs(answers, {**answers, 0: "x", 1: "y"}, quantized=False) == {"same": 6, "of": 8}
    others = {**answers, 0: "x", 1: "y", 2: "z"}
    with pytest.raises(CheckpointError, match="of 3 of 8 rows it makes something else"):
        same_outputs(answers, others, quantized=False)
    assert same_outputs(answers, others, quantized=True) == {"same": 5, "of": 8}
    assert same_outputs({0: 1.0, 1: 2.0}, {0: 1.001, 1: 2.0}, quantized=False) == {"same": 2, "of": 2}
    assert same_outputs({}, {}, quantized=False) is None


# ---- what is refused -----------------------------------------------------------------------------------------


def full_folder() -> str:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    return "full"


def a_file() -> str:
    Path("full").write_text("mine")
    return "full"


def link_into_the_run() -> str:
    Path("link").symlink_to("first/model")
    return "link/merged"


@pytest.mark.parametrize(
    ("place", "error"),
    [
        (full_folder, "is there already"),
        (a_file, "is there already"),
        (lambda: "first", "lies in the run's own folder"),
        (lambda: "first/model/merged", "lies in the run's own folder"),
        (lambda: "data/../first/out", "lies in the run's own folder"),
        (link_into_the_run, "lies in the run's own folder"),
        (lambda: "data/test.jsonl/out", "cannot be written"),
    ],
)
def test_nothing_is_overwritten(finished: Run, place: Callable[[], str], error: str, in_tmp: Path) -> None:
    to = place()
    before = contents(in_tmp)
    for merge in (False, True):
        with pytest.raises(CheckpointError, match=error):
            load_run("first").export(to, merge=merge)
    assert contents(in_tmp) == before


def test_an_empty_folder_is_filled(finished: Run) -> None:
    Path("out").mkdir()
    load_run("first").export("out")
    assert contents(Path("out")) == contents(Path("first/model"))


def test_no_run_and_no_finished_run(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "nowhere", "--to", "out"]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    summary = {**finished.summary, "status": "interrupted"}
    Path("first/summary.json").write_text(json.dumps(summary))
    assert main(["export", "first", "--to", "out"]) == 2
    assert "is interrupted" in (said := capsys.readouterr().err)
    assert "hint: go on with it: toolkit resume first" in said
    assert not Path("out").exists()


@pytest.mark.parametrize("adapter", [{"r": 2, "target_modules": ["q_proj"]}, None])
def test_a_damaged_model_is_not_exported(adapted: Recipe, adapter: Any) -> None:
    run(adapted.override(adapter=adapter), "first")
    weights = next(Path("first/model").glob("*.safetensors"))
    whole = weights.read_bytes()
    index = {"weight_map": {"a": weights.name, "b": "model-00002.safetensors"}}
    for damage in (
        lambda: weights.write_bytes(whole[:-1]),
        weights.unlink,
        lambda: (
            weights.write_bytes(whole),
            Path("first/model/model.safetensors.index.json").write_text(json.dumps(index)),
        ),
    ):
        damage()
        with pytest.raises(CheckpointError, match="in first/model is damaged or incomplete") as caught:
            load_run("first").export("out")
        assert "bring it back from a copy" in str(caught.value.hint)
        assert not Path("out").exists()


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("place", ["assets/notes.txt", "old.bin", "assets"])
def test_what_a_link_leads_to_is_not_exported(finished: Run, in_tmp: Path, place: str, merge: bool) -> None:
    """A run of a stranger's may have links to what is private here."""
    Path("private").mkdir()
    Path("private/key").write_text("secret")
    link = finished.folder / "model" / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(in_tmp / "private" / ("" if place == "assets" else "key"))
    with pytest.raises(CheckpointError, match=f"model/{place} is a link out of the run's folder"):
        finished.export("out", merge=merge)
    assert not Path("out").exists()


def test_a_merge_that_changes_the_model_is_refused_and_removed(
    finished: Run, monkeypatch: pytest.MonkeyPatch, in_tmp: Path
) -> None:
    monkeypatch.setattr("toolkit.export.TOLERANCE", -1.0)  # so that even what is equal is too far
    before = contents(in_tmp)
    loss = f"{finished.summary['after']['loss']:.4f}"
    with pytest.raises(CheckpointError, match=f"loss is {loss} merged, {loss} unmerged") as caught:
        load_run("first").export("new/merged", merge=True)
    assert "without --merge" in str(caught.value.hint)
    assert contents(in_tmp) == before
    assert not Path("new").exists()


def test_what_cannot_be_merged_leaves_nothing(finished: Run, in_tmp: Path) -> None:
    path = "first/model/adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: tensor * float("nan") for name, tensor in weights.items()}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="cannot be merged: NaNs"):
        load_run("first").export("new/merged", merge=True)
    assert not Path("new").exists()


@pytest.mark.parametrize("merge", [False, True])
def test_a_full_disk_leaves_nothing(finished: Run, merge: bool, capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        try:
            load_run("first").export("new/out", merge=merge)
        except CheckpointError as error:
            return 0 if "new/out cannot be written: " in error.message and "\n" not in error.message else 2
        return 1

    assert in_a_process(work) == 0, capfd.readouterr().err
    assert not Path("new").exists()


def test_a_signal_leaves_nothing(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit import export

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(export, "open_trained", interrupted)
    with pytest.raises(Interrupted):
        load_run("first").export("new/merged", merge=True)
    assert not Path("new").exists()
