from __future__ import annotations

import inspect

import pytest

from tests.conftest import Install
from toolkit import PluginError, Recipe, RecipeError, hookspecs
from toolkit.plugins import HOOKS, Plugins

SETTINGS = """
    from dataclasses import dataclass
    from toolkit import hookimpl

    @dataclass(frozen=True)
    class VitSettings:
        crop: int = 224

    @hookimpl
    def toolkit_settings():
        return VitSettings
"""


def answering(*hooks: str, result: str = "lambda *a: 1") -> str:
    functions = [f"@hookimpl\ndef {hook}(): return {result}\n" for hook in hooks]
    return "from toolkit import hookimpl\n" + "".join(functions)


def load(install: Install, *sources: str, **recipe: object) -> Plugins:
    names = [f"plug{number}" for number in range(len(sources))]
    for name, source in zip(names, sources, strict=True):
        install(f"toolkit-{name}", plugins={name: f"toolkit_{name}"}, modules={f"toolkit_{name}": source})
    return Plugins(Recipe(name="mine", plugins=names, **recipe))


def test_settings_are_parsed_from_the_plugins_section(install: Install) -> None:
    recipe = load(install, SETTINGS, plug0={"crop": 64}).recipe
    import toolkit_plug0  # type: ignore[import-not-found]

    assert recipe.settings(toolkit_plug0.VitSettings).crop == 64


def test_settings_have_defaults(install: Install) -> None:
    recipe = load(install, SETTINGS).recipe
    import toolkit_plug0

    assert recipe.settings(toolkit_plug0.VitSettings).crop == 224


def test_wrong_settings_are_refused_together(install: Install) -> None:
    with pytest.raises(RecipeError) as caught:
        load(
            install,
            SETTINGS,
            answering("toolkit_callbacks", result="[]"),
            plug0={"crap": 1, "crop": "x"},
            plug1={"a": 1},
        )
    assert [fault.message for fault in caught.value.all] == [
        "plug0.crap: unknown key 'crap'",
        'plug0.crop: input should be a valid integer, found "x"',
        "plug1: the plugin 'plug1' has no settings",
    ]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "@hookimpl\ndef toolkit_colator(recipe, processor): pass",
            "unknown hook 'toolkit_colator' (did you mean 'toolkit_collator'?)",
        ),
        ("def toolkit_colator(recipe): pass", "unknown hook 'toolkit_colator'"),
        ("def toolkit_loss(recipe): pass", "hook 'toolkit_loss' lacks @hookimpl"),
        (
            "@hookimpl\ndef toolkit_loss(recipe, model): pass",
            "hook 'toolkit_loss' has no argument 'model' (it has: recipe)",
        ),
        (
            "@hookimpl\ndef toolkit_settings(recipe): pass",
            "hook 'toolkit_settings' has no argument 'recipe' (it has: none)",
        ),
    ],
)
def test_hooks_that_break_the_contract(install: Install, source: str, reason: str) -> None:
    with pytest.raises(PluginError) as caught:
        load(install, f"from toolkit import hookimpl\n{source}\n")
    assert caught.value.message.startswith("plugin 'plug0' (toolkit-plug0 0.1) could not be loaded\n  ")
    assert reason in caught.value.message


def test_two_answers_to_a_build_hook_name_both(install: Install) -> None:
    plugins = load(install, answering("toolkit_loss"), answering("toolkit_loss"))
    with pytest.raises(PluginError, match="plugins 'plug0' and 'plug1' both answer toolkit_loss"):
        plugins.loss()


def test_no_answer_means_the_default_or_says_what_is_missing(install: Install) -> None:
    plugins = load(install, answering("toolkit_metrics", result="None"))
    assert plugins.loss() is None
    assert plugins.metrics(None) == []
    with pytest.raises(
        PluginError, match="no plugin of the recipe loads a model: toolkit_model has no answer"
    ):
        plugins.model()


def test_lists_add_up_in_the_recipes_order(install: Install) -> None:
    plugins = load(
        install,
        answering("toolkit_metrics", result="['a', 'b']"),
        answering("toolkit_metrics", result="['c']"),
    )
    assert plugins.metrics(None) == ["a", "b", "c"]


def test_augmentations_chain_in_the_recipes_order(install: Install) -> None:
    sources = [
        answering("toolkit_augment", result=f"lambda row, generator: row + ['{name}']") for name in "ab"
    ]
    row: list[str] = []
    for change in load(install, *sources).augment():
        row = change(row, None)  # type: ignore[arg-type, assignment]
    assert row == ["a", "b"]


def test_faults_of_all_plugins_come_together(install: Install) -> None:
    checks = [
        f"from toolkit import hookimpl, RecipeError\n@hookimpl\ndef toolkit_check(recipe): return [RecipeError('{n}')]"
        for n in "ab"
    ]
    with pytest.raises(RecipeError) as caught:
        load(install, *checks).check()
    assert [fault.message for fault in caught.value.all] == ["a", "b"]


def test_only_named_plugins_are_imported(install: Install) -> None:
    install("toolkit-bad", plugins={"bad": "toolkit_bad"}, modules={"toolkit_bad": "raise SystemExit"})
    assert load(install, SETTINGS).recipe.plugins == ("plug0",)


def test_the_facade_has_one_method_a_hook() -> None:
    methods = {name for name in vars(Plugins) if not name.startswith("_")} - {"with_recipe"}
    assert {f"toolkit_{name}" for name in methods} == set(HOOKS) - {"toolkit_settings"}


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_says_when_and_shows_an_example(hook: str) -> None:
    text = inspect.getdoc(getattr(hookspecs, hook)) or ""
    assert "When: " in text
    assert f"@hookimpl\n    def {hook}(" in text
