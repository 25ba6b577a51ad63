"""Laws of whole runs: what they save, and what becomes of one that is stopped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import DataError, PluginError
from toolkit.testing.subject import Subject

_OF_THE_MODEL = (
    "toolkit_model",
    "toolkit_quantize",
    "toolkit_adapt",
    "toolkit_evaluate_batch",
    "toolkit_predict",
)
_OF_TRAINING = (
    "toolkit_dataset", "toolkit_model", "toolkit_adapt", "toolkit_row_length", "toolkit_prepare", "toolkit_augment",
    "toolkit_collator", "toolkit_loss", "toolkit_wrap_loss", "toolkit_step", "toolkit_callbacks",
)  # fmt: skip


def runs_to_its_end(subject: Subject) -> None:
    """A small run trains, is measured, saved and reported, and nothing fails on the way."""
    finished = subject.finished_run
    if subject.has("toolkit_run_finished"):
        subject.plugins.answer(subject.name, "toolkit_run_finished", run=finished)
    if subject.has("toolkit_run_failed"):
        subject.plugins.answer(
            subject.name, "toolkit_run_failed", run=finished, error=RuntimeError("as a trial")
        )


def saved_is_what_was_trained(subject: Subject) -> None:
    """The model of a finished run, loaded again from its folder, gives the same losses and predictions."""
    subject.asked_for(*_OF_THE_MODEL)
    from toolkit.runs import load_run

    trained, loaded = subject.finished_run, load_run(subject.finished_run.folder)
    if apart := [what for what, one, other in _used(subject, trained, loaded) if one != other]:
        raise PluginError(
            f"of the model loaded again, other than before: {'; '.join(apart)}",
            hint="toolkit_model must load, by recipe.model, all that save_pretrained of model and processor wrote",
        )


def _used(subject: Subject, trained: Any, loaded: Any) -> Iterator[tuple[str, str, str]]:
    """What both runs make of the same rows."""
    yield "losses and predictions of rows", _evaluated(subject, trained), _evaluated(subject, loaded)
    if subject.has("toolkit_predict") and (inputs := _inputs(subject, trained)):
        yield "predictions of inputs", _predicted(trained, inputs), _predicted(loaded, inputs)


def _evaluated(subject: Subject, run: Any) -> str:
    import torch
    from transformers import set_seed

    from toolkit.trainer import model_loss
    from toolkit.types import Scored

    set_seed(7)  # some draw what they predict
    own, loss = subject.plugins.evaluate_batch(run.processor), subject.plugins.loss() or model_loss
    model, batch = run.model.eval(), subject.batch()
    with torch.no_grad():
        scored = own(model, batch) if own is not None else Scored(loss(model, batch), batch)
    return f"{float(scored.loss.total)!r} {list(scored.predictions)!r}"


def _predicted(run: Any, inputs: list[str]) -> str:
    from transformers import set_seed

    set_seed(7)
    return repr(run.predictions(inputs))


def _inputs(subject: Subject, run: Any) -> list[str]:
    """Inputs that `toolkit_predict` takes: what is text in some rows, of one column or of all; maybe none."""
    rows = subject.raw_rows[:3]
    columns = [[text for row in rows if (text := _text_in(row[name]))] for name in rows[0]]
    for inputs in [*columns, [one for some in columns for one in some]]:
        try:
            if inputs and run.predictions(inputs):
                return inputs
        except DataError:
            continue
    return []


def _text_in(cell: Any) -> str:
    """The longest text in a cell, a path being one; empty where there is none."""
    if isinstance(cell, Mapping):
        cell = list(cell.values())
    if isinstance(cell, list):
        return max((_text_in(one) for one in cell), key=len, default="")
    return str(cell) if isinstance(cell, str | Path) else ""


def resumed_is_never_stopped(subject: Subject) -> None:
    """A run that is stopped and resumed in the middle of an epoch saves the same weights, bit for bit."""
    subject.asked_for(*_OF_TRAINING)
    from toolkit.runs import run
    from toolkit.testing.training import new_folder

    whole, stopped = subject.finished_run.folder, new_folder(subject)
    shutil.copytree(whole, stopped)
    _forget(stopped)
    run(subject.recipe, stopped, resume=True)
    weights, others = _weights(whole), _weights(stopped)
    apart = [
        name for name, one in weights.items() if name not in others or not bool((one == others[name]).all())
    ]
    if apart or not weights:
        raise PluginError(
            f"after a resume {len(apart)} of {len(weights)} weights are others, such as {', '.join(sorted(apart)[:2])}",
            hint="what changes in the course of training must be in the weights, or follow from trainer state and row: "
            "draw from the generator of toolkit_augment, and count with state.global_step in callbacks",
        )


def _forget(folder: Path) -> None:
    """Make a finished run one that ended after its first checkpoint."""
    from toolkit import checkpoint

    first, *later = checkpoint.ordered(folder / "checkpoints")
    for gone in (*later, folder / "model"):
        shutil.rmtree(gone)
    (folder / "summary.json").unlink()
    assert checkpoint.damage(first) is None


def _weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {
        name: one
        for path in (folder / "model").glob("*.safetensors")
        for name, one in load_file(path).items()
    }
