"""The plugins of one run: loaded, verified, and asked through one typed method per hook."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

import pluggy
from pydantic import PydanticUndefinedAnnotation, PydanticUserError

from toolkit import discovery, hookspecs
from toolkit.answers import expected
from toolkit.discovery import Installed, bare
from toolkit.errors import PluginError, RecipeError, ToolkitError, did_you_mean, in_one_line
from toolkit.generation import check_generation
from toolkit.metrics import named_metrics
from toolkit.notices import say
from toolkit.quantization import quantized_by
from toolkit.recipe import Recipe
from toolkit.structure import build
from toolkit.trace import Trace
from toolkit.types import Column, Metric, Stage

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback

    from toolkit.runs import Run
    from toolkit.types import Batch, Loss, Row, Scored, Splits

PREFIX = "toolkit_"
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith(PREFIX))
_WHY_ONE = {"toolkit_model": "a run trains one kind of model: "}
_LISTS = ("toolkit_check", "toolkit_columns", "toolkit_frozen_stages", "toolkit_metrics", "toolkit_callbacks")


def _trainer_callback() -> type:
    from transformers import TrainerCallback

    return cast(type, TrainerCallback)


_ITEMS: dict[str, Callable[[], type]] = {
    "toolkit_columns": lambda: Column,
    "toolkit_frozen_stages": lambda: Stage,
    "toolkit_metrics": lambda: Metric,
    "toolkit_callbacks": _trainer_callback,
}
"""What the lists of some hooks hold."""


class Plugins:
    """The plugins a recipe names. Nothing but this class calls `pm.hook`.

    `recipe` is the recipe given, with the plugins' settings parsed.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Import, verify and register the plugins, in the recipe's order, then parse their settings.

        Raises:
            PluginError: a plugin is missing, fails to import, or breaks the contract.
            RecipeError: a plugin's section of the recipe is wrong.
        """
        self._pm = pluggy.PluginManager("toolkit")
        self._pm.add_hookspecs(hookspecs)
        self._installed = {bare(name): discovery.find("plugin", name) for name in recipe.plugins}
        for plugin in self._installed.values():
            self._register(plugin)
        self._trace = Trace.if_on(self._pm, [_origin(one) for one in self._installed.values()])
        self.recipe = self._parse_settings(recipe)

    def _register(self, plugin: Installed) -> None:
        loaded = plugin.load()
        _check_contract(plugin, getattr(loaded, "toolkit_contract", hookspecs.CONTRACT))
        faults = _contract_faults(loaded, {_package(plugin.entry.module), _package(type(loaded).__module__)})
        if faults:
            raise plugin.failure(faults)
        try:
            self._pm.register(loaded, name=plugin.name)
        except (pluggy.PluginValidationError, ValueError) as error:
            raise plugin.failure([str(error)]) from error

    def _parse_settings(self, recipe: Recipe) -> Recipe:
        settings, faults = {}, []
        for name in self._installed:
            section = recipe.sections.get(name)
            kind = self._ask(name, "toolkit_settings")
            if kind is None:
                if section is not None:
                    faults.append(
                        RecipeError(
                            f"{name}: the plugin '{name}' has no settings", hint=f"leave `{name}` out"
                        )
                    )
                continue
            settings[kind], found = self._build(name, kind, section or {})
            faults += found
        if faults:
            raise RecipeError.gather(faults)
        return recipe.with_settings(settings)

    def _build(self, plugin: str, kind: Any, section: Any) -> tuple[Any, list[RecipeError]]:
        """A plugin's section as an instance of its settings class, or None and the faults."""
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            raise self._broken(plugin, "toolkit_settings", "a dataclass (the class, no instance)", kind)
        try:
            return build(kind, section, plugin)
        except (PydanticUserError, PydanticUndefinedAnnotation) as error:
            problem = error.message.splitlines()[0]
            raise PluginError(
                f"{self._installed[plugin].describe()}: the types of {kind.__name__} cannot be told: {problem}",
                hint="settings are of plain types, imported where the class is defined",
            ) from error

    def _broken(self, plugin: str, hook: str, expected: str, answer: Any) -> PluginError:
        found = f"class {answer.__name__}" if isinstance(answer, type) else type(answer).__name__
        return PluginError(
            f"{self._installed[plugin].describe()}: {hook} must return {expected}, returned {found}",
            hint="see the hook's example in toolkit/hookspecs.py",
        )

    def versions(self) -> dict[str, str]:
        """The package, with its version, that each comes from."""
        return {name: f"{one.distribution} {one.version}" for name, one in self._installed.items()}

    def with_recipe(self, recipe: Recipe) -> Plugins:
        """The same plugins for another recipe that names them."""
        other = copy.copy(self)
        other.recipe = self._parse_settings(recipe)
        return other

    # ---- asking ----------------------------------------------------------------------------------------

    def _ask(self, plugin: str, hook: str, **arguments: Any) -> Any:
        """One plugin's answer."""
        others = [module for name, module in self._pm.list_name_plugin() if name != plugin]
        try:
            answers = self._pm.subset_hook_caller(hook, others)(**arguments)
        except ModuleNotFoundError as error:
            raise self._installed[plugin].lacking(error, hook) from error
        return answers[0] if answers else None

    def answer(self, plugin: str, hook: str, **arguments: Any) -> Any:
        """What one plugin, by its name, answers a hook with; None where it does not."""
        return self._ask(plugin, hook, recipe=self.recipe, **arguments)

    def _answers(self, hook: str, **arguments: Any) -> dict[str, Any]:
        """Every plugin's answer that is not None, by plugin, in the recipe's order."""
        asked = {name: self._ask(name, hook, **arguments) for name in self._installed}
        answers = {name: answer for name, answer in asked.items() if answer is not None}
        for name, answer in answers.items():
            if hook in _LISTS and not isinstance(answer, list | tuple):
                raise self._broken(name, hook, "a list", answer)
            if hook in _ITEMS and not all(isinstance(one, _ITEMS[hook]()) for one in answer):
                raise self._broken(name, hook, f"a list of {_ITEMS[hook]().__name__}s only", answer)
            if hook not in _LISTS and not callable(answer):
                raise self._broken(name, hook, "a callable", answer)
        if self._trace is not None and not answers:
            self._trace.unanswered(hook)
        return answers

    def _one(self, hook: str, **arguments: Any) -> Any:
        answers = self._answers(hook, **arguments)
        if len(answers) > 1:
            raise PluginError(
                f"plugins {' and '.join(repr(name) for name in answers)} both answer {hook}",
                hint=f"{_WHY_ONE.get(hook, '')}name just one of them in the recipe's `plugins`",
            )
        return next(iter(answers.values()), None)

    def _required(self, hook: str, purpose: str, **arguments: Any) -> Any:
        answer = self._one(hook, **arguments)
        if answer is None:
            named = ", ".join(self.recipe.plugins) or "none"
            raise PluginError(
                f"no plugin of the recipe {purpose}: {hook} has no answer (plugins: {named})",
                hint="add one to the recipe's `plugins`; `toolkit plugins` lists what is installed",
            )
        return answer

    def _all(self, hook: str, **arguments: Any) -> list[Any]:
        return [item for answer in self._answers(hook, **arguments).values() for item in answer]

    def _tell(self, hook: str, **arguments: Any) -> None:
        for name in self._installed:
            self._ask(name, hook, **arguments)

    def _observe(self, hook: str, **arguments: Any) -> None:
        """Tell every plugin; one that fails is named, and changes nothing for the run and for the others."""
        for name, plugin in self._installed.items():
            try:
                self._ask(name, hook, **arguments)
            except Exception as error:
                say(f"{plugin.describe()}: {hook} failed: {in_one_line(error)}; the run is not affected")

    # ---- one method per hook, in calling order -------------------------------------------------------------

    def check(self) -> None:
        """Raise the faults that the plugins find, all together, or that two of them each bring a model."""
        faults = self._all("toolkit_check", recipe=self.recipe)
        if len(self._pm.hook.toolkit_model.get_hookimpls()) > 1:
            try:
                self.model()
            except PluginError as error:
                faults.append(error)
        if faults:
            raise RecipeError.gather([_as_fault(fault) for fault in faults])

    def dataset(self) -> Callable[[], Splits] | None:
        return self._one("toolkit_dataset", recipe=self.recipe)  # type: ignore[no-any-return]

    def columns(self) -> list[Column]:
        return self._all("toolkit_columns", recipe=self.recipe)

    def model(self) -> Callable[[], tuple[Any, Any]]:
        load = self._required("toolkit_model", "loads a model", recipe=self.recipe)
        quantize = self.quantize() if self.recipe.model.quantization != "none" else None
        return partial(_loaded, load, quantize)

    def quantize(self) -> Callable[[], Mapping[str, Any]] | None:
        return self._one("toolkit_quantize", recipe=self.recipe)  # type: ignore[no-any-return]

    def given(self, model: Any, processor: Any) -> None:
        check_generation(model)
        self._tell("toolkit_given", recipe=self.recipe, model=model, processor=processor)

    def adapt(self) -> Callable[[Any], Any] | None:
        return self._one("toolkit_adapt", recipe=self.recipe) if self.recipe.adapter is not None else None

    def inspect(self, processor: Any) -> Callable[[Row], Mapping[str, float | str]] | None:
        return self._one("toolkit_inspect", recipe=self.recipe, processor=processor)  # type: ignore[no-any-return]

    def row_length(self) -> Callable[[Row], float] | None:
        return self._one("toolkit_row_length", recipe=self.recipe)  # type: ignore[no-any-return]

    def prepare(self, processor: Any) -> Callable[[Row], Row] | None:
        """The plugin's own, which leaves what shall come along in batches as it is."""
        from toolkit.data.columns import Keeping, in_batches

        own = self._one("toolkit_prepare", recipe=self.recipe, processor=processor)
        kept = in_batches(self.columns())
        return Keeping(own, kept) if own is not None and kept else own

    def show(self, processor: Any) -> Callable[[Row], str] | None:
        return self._one("toolkit_show", recipe=self.recipe, processor=processor)  # type: ignore[no-any-return]

    def augment(self) -> list[Callable[[Row, torch.Generator], Row]]:
        return list(self._answers("toolkit_augment", recipe=self.recipe).values())

    def collator(self, processor: Any) -> Callable[[list[Row]], Batch]:
        return self._required("toolkit_collator", "collates rows", recipe=self.recipe, processor=processor)  # type: ignore[no-any-return]

    def loss(self) -> Callable[[Any, Batch], Loss] | None:
        return self._one("toolkit_loss", recipe=self.recipe)  # type: ignore[no-any-return]

    def wrap_loss(self) -> list[Callable[[Callable[[Any, Batch], Loss]], Callable[[Any, Batch], Loss]]]:
        """In the recipe's order.

        Raises:
            PluginError: one of the plugins makes the loss in a step of its own.
        """
        wraps = self._answers("toolkit_wrap_loss", recipe=self.recipe)
        for name in self._answers("toolkit_step", recipe=self.recipe) if wraps else ():
            raise PluginError(
                f"plugin '{next(iter(wraps))}' wraps the loss, and plugin '{name}' makes it in a step of its own",
                hint="leave one of the two out of the recipe's `plugins`",
            )
        return list(wraps.values())

    def step(self) -> Callable[[Any, Batch, Callable[[torch.Tensor], None]], Loss] | None:
        return self._one("toolkit_step", recipe=self.recipe)  # type: ignore[no-any-return]

    def callbacks(self) -> list[TrainerCallback]:
        return self._all("toolkit_callbacks", recipe=self.recipe)

    def frozen_stages(self, model: Any) -> list[Stage]:
        return self._all("toolkit_frozen_stages", recipe=self.recipe, model=model)

    def evaluate_batch(self, processor: Any) -> Callable[[Any, Batch], Scored] | None:
        return self._one("toolkit_evaluate_batch", recipe=self.recipe, processor=processor)  # type: ignore[no-any-return]

    def metrics(self, processor: Any) -> list[Metric]:
        """The plugins' own, then those that the recipe names."""
        own = self._all("toolkit_metrics", recipe=self.recipe, processor=processor)
        return [*own, *named_metrics(self.recipe.eval.metrics, self.recipe.model.trust_remote_code)]

    def predict(
        self, model: Any, processor: Any, columns: Mapping[str, str]
    ) -> Callable[[Sequence[str]], list[Any] | Mapping[str, Any]]:
        given = {"model": model, "processor": processor, "columns": columns}
        return self._required("toolkit_predict", "predicts", recipe=self.recipe, **given)  # type: ignore[no-any-return]

    def run_finished(self, run: Run) -> None:
        self._observe("toolkit_run_finished", run=run)

    def run_failed(self, run: Run, error: BaseException) -> None:
        self._observe("toolkit_run_failed", run=run, error=error)


def _loaded(
    load: Callable[[], tuple[Any, Any]], quantize: Callable[[], Mapping[str, Any]] | None
) -> tuple[Any, Any]:
    with contextlib.nullcontext() if quantize is None else quantized_by(quantize):
        loaded = load()
    from torch import nn

    pair = loaded if isinstance(loaded, tuple) and len(loaded) == 2 else None
    model, processor = expected(pair, tuple, "toolkit_model", "a pair of a model and a processor")
    return expected(model, nn.Module, "toolkit_model", "a torch.nn.Module as the model"), processor


def _check_contract(plugin: Installed, wanted: Any) -> None:
    """Refuse a plugin that is written for hooks that are not there yet, or no longer."""
    oldest, newest = hookspecs.OLDEST_CONTRACT, hookspecs.CONTRACT
    if not isinstance(wanted, int):
        raise plugin.failure(
            [f"toolkit_contract must be a whole number, is {wanted!r}"], f"the newest is {newest}"
        )
    if oldest <= wanted <= newest:
        return
    known = str(newest) if oldest == newest else f"{oldest} to {newest}"
    raise plugin.failure(
        [
            f"it is written for version {wanted} of the hooks, task-toolkit {version('task-toolkit')} has {known}"
        ],
        f"install a newer {'task-toolkit' if wanted > newest else plugin.distribution}",
    )


def _contract_faults(plugin: Any, homes: set[str]) -> list[str]:
    """What is wrong with a plugin's hooks: misspelt, undecorated, or asking for arguments that do not exist.

    Args:
        homes: the packages whose functions are the plugin's own, and not just imported by it.
    """
    if isinstance(plugin, type):
        return [f"{plugin.__name__} is a class: give an instance or a module"]
    faults = []
    for name, function in inspect.getmembers(plugin, inspect.isroutine):
        decorated = hasattr(function, "toolkit_impl")
        if decorated or (name.startswith(PREFIX) and _package(function.__module__) in homes):
            faults += _hook_faults(name, function, decorated)
    return faults


def _hook_faults(name: str, function: Any, decorated: bool) -> list[str]:
    if name not in HOOKS:
        near = did_you_mean(name, HOOKS)
        return [f"unknown hook '{name}'" + (f" ({near})" if near else "")]
    if not decorated:
        return [f"hook '{name}' lacks @hookimpl"]
    offered = inspect.signature(getattr(hookspecs, name)).parameters
    return [
        f"hook '{name}' has no argument '{one}' (it has: {', '.join(offered) or 'none'})"
        for one in inspect.signature(function).parameters
        if one not in offered
    ]


def _origin(plugin: Installed) -> str:
    return f"{plugin.name} ({plugin.distribution} {plugin.version})"


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _as_fault(fault: Any) -> ToolkitError:
    return (
        fault
        if isinstance(fault, ToolkitError)
        else RecipeError(str(fault), hint="see the plugin's documentation")
    )
