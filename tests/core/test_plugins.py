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


def test_a_hook_that_lacks_a_module_says_so(install: Install) -> None:
    lacking = "from toolkit import hookimpl\n@hookimpl\ndef toolkit_model(recipe): import sounds.wav"
    plugins = load(install, lacking)
    with pytest.raises(PluginError, match="toolkit_model needs the module 'sounds', which is not") as caught:
        plugins.model()
    assert caught.value.message.startswith("plugin 'plug0' (toolkit-plug0 0.1): ")
    assert caught.value.hint.startswith("install what it needs, the module 'sounds'")


def test_versions_are_those_of_the_packages(install: Install) -> None:
    assert load(install, SETTINGS).versions() == {"plug0": "toolkit-plug0 0.1"}


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


@pytest.mark.parametrize(
    ("hooks", "reason"),
    [
        ("def toolkit_loss(recipe): pass", "hook 'toolkit_loss' lacks @hookimpl"),
        ("def toolkit_colator(recipe): pass", "unknown hook 'toolkit_colator'"),
        ("@hookimpl\ndef toolkit_loss(recipe, model): pass", "hook 'toolkit_loss' has no argument 'model'"),
    ],
)
def test_hooks_from_the_plugins_own_package_break_it_too(install: Install, hooks: str, reason: str) -> None:
    hooks = f"from toolkit import hookimpl\n{hooks}\n"
    modules = {"toolkit_far.hooks": hooks, "toolkit_far.__init__": "from toolkit_far.hooks import *"}
    install("toolkit-far", plugins={"far": "toolkit_far"}, modules=modules)
    with pytest.raises(PluginError) as caught:
        Plugins(Recipe(name="mine", plugins=["far"]))
    assert reason in caught.value.message


def test_what_a_plugin_imports_from_others_is_not_its_own(install: Install) -> None:
    install("helpers", modules={"helpers": "def toolkit_helper(): pass"})
    assert load(install, "from helpers import toolkit_helper\n").loss() is None


OBJECT = """
    from toolkit import hookimpl

    class Odd:
        {decorator}
        def toolkit_loss(self, recipe):
            return print

    plugin = Odd()
"""


def load_entry(install: Install, entry: str, source: str) -> Plugins:
    install("toolkit-odd", plugins={"odd": f"toolkit_odd:{entry}"}, modules={"toolkit_odd": source})
    return Plugins(Recipe(name="mine", plugins=["odd"]))


def test_an_object_is_a_plugin(install: Install) -> None:
    assert load_entry(install, "plugin", OBJECT.format(decorator="@hookimpl")).loss() is print


@pytest.mark.parametrize(
    ("entry", "decorator", "reason"),
    [
        ("plugin", "", "hook 'toolkit_loss' lacks @hookimpl"),
        ("Odd", "@hookimpl", "Odd is a class: give an instance or a module"),
    ],
)
def test_objects_that_break_the_contract(install: Install, entry: str, decorator: str, reason: str) -> None:
    with pytest.raises(PluginError) as caught:
        load_entry(install, entry, OBJECT.format(decorator=decorator))
    assert caught.value.message == f"plugin 'odd' (toolkit-odd 0.1) could not be loaded\n  {reason}"


def settings(body: str, result: str) -> str:
    return f"""
from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING
from toolkit import hookimpl
if TYPE_CHECKING:
    from pathlib import Path
{body}
@hookimpl
def toolkit_settings():
    return {result}
"""


@pytest.mark.parametrize(
    ("body", "result", "reason"),
    [
        (
            "class Odd: pass",
            "Odd",
            "toolkit_settings must return a dataclass (the class, no instance), returned class Odd",
        ),
        (
            "@dataclass\nclass Odd: pass",
            "Odd()",
            "toolkit_settings must return a dataclass (the class, no instance), returned Odd",
        ),
        ("@dataclass\nclass Odd:\n    a: Path | None = None", "Odd", "the types of Odd cannot be told: "),
        (
            "class Far: pass\n@dataclass\nclass Odd:\n    a: Far | None = None",
            "Odd",
            "the types of Odd cannot be told: ",
        ),
    ],
)
def test_settings_classes_that_are_none(install: Install, body: str, result: str, reason: str) -> None:
    with pytest.raises(PluginError) as caught:
        load(install, settings(body, result))
    assert caught.value.message.startswith(f"plugin 'plug0' (toolkit-plug0 0.1): {reason}")


@pytest.mark.parametrize(
    ("hook", "result", "reason"),
    [
        ("toolkit_metrics", "5", "toolkit_metrics must return a list, returned int"),
        ("toolkit_check", "'crop is wrong'", "toolkit_check must return a list, returned str"),
        ("toolkit_columns", "{}", "toolkit_columns must return a list, returned dict"),
        ("toolkit_callbacks", "list", "toolkit_callbacks must return a list, returned class list"),
        ("toolkit_loss", "3", "toolkit_loss must return a callable, returned int"),
        ("toolkit_model", "(1, 2)", "toolkit_model must return a callable, returned tuple"),
        ("toolkit_augment", "[]", "toolkit_augment must return a callable, returned list"),
    ],
)
def test_answers_of_the_wrong_kind(install: Install, hook: str, result: str, reason: str) -> None:
    plugins = load(install, answering(hook, result=result))
    method = getattr(plugins, hook.removeprefix("toolkit_"))
    with pytest.raises(PluginError) as caught:
        method(*[None] * len(inspect.signature(method).parameters))
    assert caught.value.message == f"plugin 'plug0' (toolkit-plug0 0.1): {reason}"


def test_observers_are_told_in_the_recipes_order(install: Install) -> None:
    sources = [
        f"from toolkit import hookimpl\n@hookimpl\ndef toolkit_run_finished(run): run.append('{name}')"
        for name in "ab"
    ]
    told: list[str] = []
    load(install, *sources).run_finished(told)  # type: ignore[arg-type]
    assert told == ["a", "b"]


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
        answering("toolkit_columns", result="[__import__('toolkit').Column(name) for name in 'ab']"),
        answering("toolkit_columns", result="[__import__('toolkit').Column('c')]"),
    )
    assert [column.name for column in plugins.columns()] == ["a", "b", "c"]


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


def test_the_facade_has_one_method_a_hook_in_calling_order() -> None:
    others = ("answer", "versions", "with_recipe")
    methods = [name for name in vars(Plugins) if not name.startswith("_") and name not in others]
    assert ["toolkit_settings", *(f"toolkit_{name}" for name in methods)] == [
        name for name in vars(hookspecs) if name in HOOKS
    ]


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_says_when_and_shows_an_example(hook: str) -> None:
    text = inspect.getdoc(getattr(hookspecs, hook)) or ""
    assert "When: " in text
    assert f"@hookimpl\n    def {hook}(" in text
