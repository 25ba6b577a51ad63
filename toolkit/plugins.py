"""The plugins of one run: loaded, verified, and asked through one typed method a hook."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

from toolkit import discovery, hookspecs
from toolkit.discovery import Installed, did_you_mean
from toolkit.errors import PluginError, RecipeError, ToolkitError
from toolkit.recipe import Recipe
from toolkit.structure import build

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback

    from toolkit.runs import Run
    from toolkit.types import Batch, Column, Loss, Metric, Row, Scored, Splits

PREFIX = "toolkit_"
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith(PREFIX))


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
        for name in reversed(recipe.plugins):  # pluggy asks the last registered first
            self._register(discovery.find("plugin", name))
        self.recipe = self._parse_settings(recipe)

    def _register(self, plugin: Installed) -> None:
        module = plugin.load()
        faults = _contract_faults(module)
        if faults:
            raise PluginError(f"{plugin.describe()} could not be loaded\n  " + "\n  ".join(faults))
        try:
            self._pm.register(module, name=plugin.name)
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError(f"{plugin.describe()} could not be loaded\n  {error}") from error

    def _parse_settings(self, recipe: Recipe) -> Recipe:
        settings, faults = {}, []
        for name in recipe.plugins:
            section = recipe.sections.get(name)
            kind = self._ask(name, "toolkit_settings")
            if kind is None:
                if section is not None:
                    faults.append(RecipeError(f"{name}: the plugin '{name}' has no settings"))
                continue
            parsed, found = build(kind, section or {}, name)
            settings[kind] = parsed
            faults += found
        if faults:
            raise RecipeError.gather(faults)
        return recipe.with_settings(settings)

    def with_recipe(self, recipe: Recipe) -> Plugins:
        """The same plugins for another recipe that names them."""
        other = copy.copy(self)
        other.recipe = self._parse_settings(recipe)
        return other

    # ---- asking ----------------------------------------------------------------------------------------

    def _ask(self, plugin: str, hook: str, **arguments: Any) -> Any:
        """One plugin's answer."""
        others = [module for name, module in self._pm.list_name_plugin() if name != plugin]
        answers = self._pm.subset_hook_caller(hook, others)(**arguments)
        return answers[0] if answers else None

    def _answers(self, hook: str, **arguments: Any) -> dict[str, Any]:
        """Every plugin's answer that is not None, by plugin, in the recipe's order."""
        asked = {name: self._ask(name, hook, **arguments) for name in self.recipe.plugins}
        return {name: answer for name, answer in asked.items() if answer is not None}

    def _one(self, hook: str, **arguments: Any) -> Any:
        answers = self._answers(hook, **arguments)
        if len(answers) > 1:
            raise PluginError(
                f"plugins {' and '.join(repr(name) for name in answers)} both answer {hook}",
                hint="name just one of them in the recipe's `plugins`",
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

    # ---- one method a hook, in calling order ---------------------------------------------------------------

    def check(self) -> None:
        """Raise the faults that the plugins find, all together."""
        faults = self._all("toolkit_check", recipe=self.recipe)
        if faults:
            raise RecipeError.gather([_as_fault(fault) for fault in faults])

    def columns(self) -> list[Column]:
        return self._all("toolkit_columns", recipe=self.recipe)

    def dataset(self) -> Callable[[], Splits] | None:
        return self._one("toolkit_dataset", recipe=self.recipe)  # type: ignore[no-any-return]

    def model(self) -> Callable[[], tuple[Any, Any]]:
        return self._required("toolkit_model", "loads a model", recipe=self.recipe)  # type: ignore[no-any-return]

    def adapt(self) -> Callable[[Any], Any] | None:
        return self._one("toolkit_adapt", recipe=self.recipe)  # type: ignore[no-any-return]

    def prepare(self, processor: Any) -> Callable[[Row], Row] | None:
        return self._one("toolkit_prepare", recipe=self.recipe, processor=processor)  # type: ignore[no-any-return]

    def augment(self) -> list[Callable[[Row, torch.Generator], Row]]:
        return list(self._answers("toolkit_augment", recipe=self.recipe).values())

    def collator(self, processor: Any) -> Callable[[list[Row]], Batch]:
        return self._required("toolkit_collator", "collates rows", recipe=self.recipe, processor=processor)  # type: ignore[no-any-return]

    def loss(self) -> Callable[[Any, Batch], Loss] | None:
        return self._one("toolkit_loss", recipe=self.recipe)  # type: ignore[no-any-return]

    def evaluate_batch(self, processor: Any) -> Callable[[Any, Batch], Scored] | None:
        return self._one("toolkit_evaluate_batch", recipe=self.recipe, processor=processor)  # type: ignore[no-any-return]

    def metrics(self, processor: Any) -> list[Metric]:
        return self._all("toolkit_metrics", recipe=self.recipe, processor=processor)

    def callbacks(self) -> list[TrainerCallback]:
        return self._all("toolkit_callbacks", recipe=self.recipe)

    def predict(self, model: Any, processor: Any) -> Callable[[Sequence[str]], list[Any]]:
        return self._required(  # type: ignore[no-any-return]
            "toolkit_predict", "predicts", recipe=self.recipe, model=model, processor=processor
        )

    def run_finished(self, run: Run) -> None:
        self._pm.hook.toolkit_run_finished(run=run)

    def run_failed(self, run: Run, error: BaseException) -> None:
        self._pm.hook.toolkit_run_failed(run=run, error=error)


def _contract_faults(module: Any) -> list[str]:
    """What is wrong with a plugin's hooks: misspelt, undecorated, or asking for arguments that do not exist."""
    faults = []
    for name, function in inspect.getmembers(module, inspect.isroutine):
        decorated = hasattr(function, "toolkit_impl")
        its_own = name.startswith(PREFIX) and function.__module__ == getattr(module, "__name__", None)
        if not decorated and not its_own:
            continue
        if name not in HOOKS:
            near = did_you_mean(name, HOOKS)
            faults.append(f"unknown hook '{name}'" + (f" ({near})" if near else ""))
        elif not decorated:
            faults.append(f"hook '{name}' lacks @hookimpl")
        else:
            offered = inspect.signature(getattr(hookspecs, name)).parameters
            wrong = [
                one for one in inspect.signature(function).parameters if one not in offered and one != "self"
            ]
            faults += [
                f"hook '{name}' has no argument '{one}' (it has: {', '.join(offered) or 'none'})"
                for one in wrong
            ]
    return faults


def _as_fault(fault: Any) -> ToolkitError:
    return fault if isinstance(fault, ToolkitError) else RecipeError(str(fault))
