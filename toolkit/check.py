"""All that can be known to be wrong with a recipe before it runs, and what its run will take."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit import dry_run
from toolkit.adapters import configure, trainable_parameters
from toolkit.data.columns import names_given
from toolkit.data.inspection import inspect_rows
from toolkit.data.rows import PreparedRows
from toolkit.data.splits import Rows
from toolkit.errors import ModelError, ToolkitError
from toolkit.execution import Execution
from toolkit.folder import RunFolder
from toolkit.metrics import Scores
from toolkit.modules import match_modules
from toolkit.opening import adapted, open_data, open_model
from toolkit.plugins import Plugins
from toolkit.recipe import Recipe
from toolkit.signals import Signals
from toolkit.structure import show

EXAMPLES = 3
ROWS_TRIED = 20
"""How many training rows may be bad before the first is given up on."""


@dataclass
class Report:
    """What was found; each part stays None where a fault kept it from being looked at.

    Attributes:
        metrics: what is measured by name, and whether larger is better.
    """

    faults: list[ToolkitError] = field(default_factory=list)
    plugins: list[str] | None = None
    rows: dict[str, Any] | None = None
    columns: dict[str, str] | None = None
    first_row: str | None = None
    facts: Mapping[str, Mapping[str, float]] | None = None
    metrics: dict[str, bool] | None = None
    adapter: list[dict[str, Any]] | None = None
    parameters: dict[str, int] | None = None
    steps: dict[str, int] | None = None
    memory: dict[str, int | None] | None = None
    dry_run: dict[str, Any] | None = None

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Note the faults that are raised here, each once, and go on after the block."""
        try:
            yield
        except ToolkitError as error:
            self.add(error.all)

    def add(self, faults: Sequence[ToolkitError]) -> None:
        known = {fault.message for fault in self.faults}
        self.faults += [fault for fault in faults if fault.message not in known]

    def as_dict(self) -> dict[str, Any]:
        faults = [{"message": fault.message, "hint": fault.hint} for fault in self.faults]
        return {"ok": not faults, **vars(self), "faults": faults}


def check(recipe: Recipe, *, with_dry_run: bool = False, report: Report | None = None) -> Report:
    """Look for every fault of a recipe, its data and its model, and forecast its run. Writes nothing that stays.

    Args:
        with_dry_run: also train one step, evaluate, save, load and evaluate again, unless there are faults.
        report: to be filled in, with the faults that are known already.
    """
    report = Report() if report is None else report
    known = len(report.faults)
    is_resolved = False
    with report.collecting():
        recipe, is_resolved = recipe.resolved(), True
    plugins: Plugins | None = None
    of_plugins = Report()
    with of_plugins.collecting():
        plugins = Plugins(recipe)
        report.plugins = list(recipe.plugins)
        plugins.check()
    with report.collecting():
        recipe.validate(own_adapter=plugins is not None and plugins.adapt() is not None)
    report.add(of_plugins.faults)
    settings_known = not any(
        fault.message.startswith(f"{section}.") for fault in of_plugins.faults for section in recipe.sections
    )
    if plugins is None:  # if only their settings are wrong, the data can be looked at all the same
        with report.collecting():
            plugins = Plugins(recipe.override(**dict.fromkeys(recipe.sections)))
    if plugins is not None and is_resolved:
        is_valid = len(report.faults) == known
        _Look(plugins, report, is_valid).at_everything(settings_known, with_dry_run)
    return report


class _Look:
    """A recipe whose plugins are loaded: its data, its model, and what they make together."""

    def __init__(self, plugins: Plugins, report: Report, is_valid: bool) -> None:
        if not is_valid:  # arguments of the wrong type could not be read
            plugins = plugins.with_recipe(plugins.recipe.override(train=None))
        self.plugins, self.recipe = plugins, plugins.recipe
        self.report, self.is_valid = report, is_valid
        self.splits: dict[str, Rows] = {}
        self.model: Any = None
        self.processor: Any = None

    def at_everything(self, settings_known: bool, with_dry_run: bool) -> None:
        report = self.report
        with report.collecting():
            self.splits = open_data(self.plugins, None)
            report.columns = names_given(self.splits["train"])
        if settings_known:
            with report.collecting():
                self._load()
        if self.splits:
            with report.collecting():
                self._inspect()
        if self.is_valid and self.splits and report.parameters:
            with report.collecting(), tempfile.TemporaryDirectory() as folder:
                self._forecast(Path(folder))
                if with_dry_run and not report.faults:
                    self._dry_run(Path(folder))

    def _load(self) -> None:
        """The model without its adapter, what the adapter's entries match in it, then the adapter."""
        seed = int(self.recipe.train.get("seed", 42))
        bare = self.plugins.with_recipe(self.recipe.override(adapter=None))
        self.model, self.processor = open_model(bare, (None, None), seed)
        with self.report.collecting():
            self.report.metrics = Scores(self.plugins.metrics(self.processor)).higher_is_better()
        if self.recipe.adapter is not None and self.plugins.adapt() is None:
            self.report.adapter = matches(self.model, self.recipe.adapter)
            if any(fault.message.startswith("adapter.") for fault in self.report.faults):
                return  # it would only be refused again, in other words
        self.model = adapted(self.plugins, self.model)
        if self.report.adapter == []:
            self.report.adapter = _by_default(self.model)
        trainable, total = trainable_parameters(self.model)
        if not trainable:
            raise ModelError("nothing of the model trains", hint="see the recipe's adapter")
        self.report.parameters = {"trainable": trainable, "total": total}

    def _inspect(self) -> None:
        """The rows as they are, and the first one that trains as the model will see it."""
        is_loaded = self.model is not None
        inspection = inspect_rows(self.splits, self.plugins.inspect(self.processor) if is_loaded else None)
        self.report.rows, self.report.facts = inspection.as_dict(), inspection.facts
        self.report.add(inspection.faults(self.recipe.data))
        if is_loaded:
            self.report.first_row = self._first_row()

    def _first_row(self) -> str | None:
        """The first training row that can be used, as the plugin shows it."""
        train = self.splits["train"]
        rows = PreparedRows("train", train, train.ids, self.plugins.prepare(self.processor))
        good = (rows[place].row for place in range(min(ROWS_TRIED, len(rows))))
        row = next((row for row in good if row is not None), None)
        if row is None:
            return None
        own = self.plugins.show(self.processor)
        return own(row) if own is not None else described(row)

    def _forecast(self, folder: Path) -> None:
        files = RunFolder(folder)
        execution = Execution(self.plugins, files, self.splits, self.model, self.processor, Signals())
        self.report.steps = steps(execution.trainer)
        self.report.memory = memory(self.model, execution.arguments.optim.value)

    def _dry_run(self, folder: Path) -> None:
        outcome = dry_run.carry_out(self.plugins, self.splits, self.model, self.processor, folder / "dry")
        assert self.report.steps is not None
        forecast = dry_run.hours(outcome, self.recipe, self.splits, self.report.steps)
        self.report.dry_run = {**outcome.as_dict(), "hours": forecast}
        if not outcome.loss_is_finite:
            raise ModelError(
                f"after one step the loss is {outcome.metrics['loss']}",
                hint="lower train.learning_rate, or load the weights in another precision: model.dtype",
            )
        if different := outcome.differences():
            raise ModelError(
                f"the saved model, loaded again, does not measure the same: {', '.join(different)}",
                hint="what the plugin's toolkit_model loads must be what the run saves",
            )


# ---- parts -----------------------------------------------------------------------------------------------


def matches(model: Any, adapter: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each entry of `target_modules` with how many modules it matched; nothing where it is left to the default.

    Raises:
        RecipeError: the adapter's settings are wrong.
    """
    config = configure(adapter)
    entries = adapter.get("target_modules") or []
    found = match_modules(model, entries, config) if entries else []
    return [_entry(match.entry, match.names) for match in found]


def _by_default(adapted: Any) -> list[dict[str, Any]]:
    """What PEFT has chosen, or an own adapter that is none of PEFT's, of which nothing is known."""
    tuner = getattr(adapted, "base_model", None)
    names = getattr(tuner, "targeted_module_names", [])
    return [_entry("(the default)", names)] if names else []


def _entry(entry: str, names: Sequence[str]) -> dict[str, Any]:
    return {"entry": entry, "matched": len(names), "examples": list(names[:EXAMPLES])}


def described(row: Mapping[str, Any]) -> str:
    """A prepared row, column by column: plain values cut short, arrays by their shape."""
    cells = {
        name: f"{type(value).__name__} of shape {tuple(value.shape)}"
        if hasattr(value, "shape")
        else show(value)
        for name, value in row.items()
    }
    return ", ".join(f"{name}: {cell}" for name, cell in cells.items())


def steps(trainer: Any) -> dict[str, int]:
    """How many optimizer steps the run will make, and of how many rows each."""
    values = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    _, per_epoch, _, _, rows, _, total = values
    return {
        "rows_per_step": rows,
        "per_epoch": per_epoch,
        "total": total,
        "warmup": trainer.args.get_warmup_steps(total),
    }


def memory(model: Any, optimizer: str) -> dict[str, int | None]:
    """Bytes of weights, gradients and optimizer state; activations come on top. None: not known."""
    trainable = [weights for weights in model.parameters() if weights.requires_grad]
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    gradients = sum(tensor.nbytes for tensor in trainable)
    state = _optimizer_bytes(optimizer, gradients, sum(tensor.numel() for tensor in trainable))
    total = None if state is None else weights + gradients + state
    return {"weights": weights, "gradients": gradients, "optimizer": state, "total": total}


def _optimizer_bytes(optimizer: str, gradients: int, parameters: int) -> int | None:
    """Bytes of state: AdamW keeps two moments a parameter, also in 8 bits; plain SGD keeps none."""
    name = optimizer.removeprefix("paged_")
    if name == "sgd":
        return 0
    if not name.startswith("adamw") or "4bit" in name:
        return None
    return 2 * parameters if "8bit" in name else 2 * gradients
