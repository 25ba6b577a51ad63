"""The law of what is computed once and reused."""

from __future__ import annotations

from toolkit.errors import PluginError
from toolkit.testing.subject import Subject


def frozen_stages_are_of_rows(subject: Subject) -> None:
    """What a frozen stage makes of a row depends on that row alone; reusing it changes no loss and no prediction."""
    subject.asked_for("toolkit_frozen_stages")
    from toolkit.stages import reused
    from toolkit.testing.comparing import relative
    from toolkit.testing.training import exact_model, scored

    model, rows = exact_model(subject), subject.raw_rows
    stages = subject.plugins.answer(subject.name, "toolkit_frozen_stages", model=model) or []
    for stage in stages:
        stage.module.requires_grad_(False)
    half = len(rows) // 2  # of which one has the longest row, so that its rows are as long in all of them
    companies = [rows[half:], rows[:half], *([row] for row in rows), rows]
    batches = [subject.batch(company) for company in companies if company]
    *_, expected = scored(subject, model, batches)
    with reused(stages, subject.folder / "cache", 1.0, len(rows)) as kept:
        *_, found = scored(subject, model, batches)
    if idle := [one.stage.name for one in kept if not one.store.rows]:
        raise PluginError(
            f"nothing that the stage {idle[0]} gives could be kept",
            hint="each of its outputs must be a tensor with a part for each row: name those that are used, "
            "Stage(..., outputs=('last_hidden_state',))",
        )
    apart = relative(float(expected.loss.total), float(found.loss.total))
    if apart > subject.tolerance or repr(expected.predictions) != repr(found.predictions):
        raise PluginError(
            f"with what the stages gave for the same rows before, loss or predictions are others ({apart:.1e} apart)",
            hint="a stage must give each row what it gives it alone, and all outputs that are used must be named",
        )
