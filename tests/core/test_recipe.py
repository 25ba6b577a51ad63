from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit import Recipe, RecipeError, ToolkitError
from toolkit.recipe import DataSpec, ModelSpec


def a_recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "mine",
        "plugins": ["whisper"],
        "adapter": {"kind": "lora", "r": 16, "target_modules": ["q_proj", "v_proj"]},
        "train": {"learning_rate": 1e-4, "num_train_epochs": 3},
        "whisper": {"language": "en"},
        "sample": {"model": "/s/model", "data": "/s/data", "train": {"learning_rate": 1e-3, "max_steps": 9}},
    }
    return Recipe(**{**values, **changes})


def faults_of(**values: Any) -> list[tuple[str, str | None]]:
    with pytest.raises(RecipeError) as caught:
        Recipe(**{"name": "mine", **values})
    return [(fault.message, fault.hint) for fault in caught.value.all]


def test_names_stand_for_model_and_data() -> None:
    recipe = a_recipe(model="openai/whisper-tiny", data="clips/")
    assert (recipe.model.name, recipe.data.source) == ("openai/whisper-tiny", "clips/")


def test_file_and_object_are_the_same(tmp_path: Path) -> None:
    recipe = a_recipe(model={"name": "x", "quantization": {"load_in_4bit": True}}, data={"limit": 5})
    recipe.dump(tmp_path / "mine.yaml")
    assert Recipe.load(tmp_path / "mine.yaml") == recipe


scalars = (
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("no1e-:#'\n é", max_size=8)
)
keys = st.text("abc_.", min_size=1, max_size=5)


def test_every_character_survives_the_file(tmp_path: Path) -> None:
    odd = "".join(map(chr, [0, 0x7F, 0x85, 0x2028, 0x2029, 0xFEFF, 0x1F600, 0x10FFFF]))
    recipe = Recipe(name="mine", train={"a": odd, "b": "one\u2028two", "\x85": ["\x85"]})
    recipe.dump(tmp_path / "mine.yaml")
    assert Recipe.load(tmp_path / "mine.yaml") == recipe


@given(
    st.dictionaries(
        keys, scalars | st.lists(scalars, max_size=3) | st.dictionaries(keys, scalars, max_size=2), max_size=4
    )
)
def test_any_plain_arguments_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory, train: dict[str, Any]
) -> None:
    recipe = Recipe(name="mine", train=train)
    path = tmp_path_factory.mktemp("recipe") / "mine.yaml"
    recipe.dump(path)
    assert Recipe.load(path) == recipe


def test_all_faults_come_together_with_suggestions() -> None:
    found = faults_of(
        trian={}, model={"nam": "x", "revision": 5}, data={"limit": "many"}, plugins="whisper", adapter=[1]
    )
    assert ("recipe: unknown key 'trian'", "did you mean 'train'?") in found
    assert ("model.nam: unknown key 'nam'", "did you mean 'name'?") in found
    messages = [message for message, _ in found]
    assert "model.revision: input should be a valid string, found 5" in messages
    assert 'data.limit: input should be a valid integer, found "many"' in messages
    assert 'plugins: expected a list of names, found "whisper"' in messages
    assert "adapter: expected a mapping of settings, found [1]" in messages


def test_text_is_never_taken_for_a_number_or_a_switch() -> None:
    assert "data.streaming" in faults_of(data={"streaming": "no"})[0][0]
    assert "data.validation_fraction" in faults_of(data={"validation_fraction": "0.1"})[0][0]


def test_a_value_that_may_be_of_two_kinds_is_one_fault() -> None:
    found = faults_of(model={"quantization": "3bit"})
    assert [message for message, _ in found] == [
        "model.quantization: input should be 'none', '4bit' or '8bit', found \"3bit\""
    ]


def test_a_section_of_no_plugin_is_refused() -> None:
    assert faults_of(plugins=["whisper"], wisper={}) == [
        ("recipe: unknown key 'wisper'", "did you mean 'whisper'?")
    ]


def test_objects_do_not_belong_in_a_recipe() -> None:
    assert (
        faults_of(train={"learning_rate": object()})[0][0]
        == "train.learning_rate: a recipe holds plain values, not object"
    )


@pytest.mark.parametrize("name", ["../../x", "/x", ".x", "", "a/b", "a\nb", "\x1b[31mred", 5, None])
def test_a_name_is_a_plain_word(name: Any) -> None:
    [(message, hint)] = faults_of(name=name)
    assert message.startswith(
        "name: expected letters, digits, '-', '_', '.' and spaces, beginning with no dot"
    )
    assert hint == "it names the run's folder, such as `name: my-run`"


def test_names_may_be_words_of_any_language() -> None:
    assert Recipe(name="Größe_2 v1.0-a").name == "Größe_2 v1.0-a"


def test_any_key_is_data() -> None:
    assert [message for message, _ in faults_of(self=1)] == ["recipe: unknown key 'self'"]
    with pytest.raises(RecipeError, match="recipe: unknown key 'self'"):
        a_recipe().override(self=1)
    with pytest.raises(RecipeError, match=r"name: expected letters.* found null"):
        a_recipe().override(name=None)


def test_what_contains_itself_is_refused() -> None:
    endless: dict[str, Any] = {"r": 1}
    endless["r"] = endless
    with pytest.raises(RecipeError, match="adapter: contains itself"):
        Recipe(name="mine", adapter=endless)


def test_plugins_that_are_no_names_are_shown() -> None:
    assert (
        faults_of(plugins=[1, ["a"]], trian={})[0][0] == 'plugins: expected a list of names, found [1, ["a"]]'
    )


def test_numbers_of_numpy_and_members_of_enumerations_become_plain(tmp_path: Path) -> None:
    import numpy as np
    from transformers import IntervalStrategy

    recipe = Recipe(name="mine", train={"a": np.float64(0.5), "c": IntervalStrategy.EPOCH})
    recipe.dump(tmp_path / "mine.yaml")
    assert Recipe.load(tmp_path / "mine.yaml").train == {"a": 0.5, "c": "epoch"}


def test_override_merges_and_none_removes() -> None:
    recipe = a_recipe().override(train={"learning_rate": 1e-5}, adapter={"r": 8}, whisper={"language": None})
    assert recipe.train == {"learning_rate": 1e-5, "num_train_epochs": 3}
    assert recipe.adapter == {"kind": "lora", "r": 8, "target_modules": ["q_proj", "v_proj"]}
    assert recipe.sections["whisper"] == {}
    assert a_recipe().override(adapter=None).adapter is None


def test_removing_from_what_is_not_there_makes_nothing() -> None:
    assert a_recipe(adapter=None).override(adapter={"r": None}).adapter is None
    assert a_recipe(adapter=None).override(adapter={}).adapter == {}
    assert a_recipe().override(model={"quantization": {"load_in_4bit": None}}).model.quantization == "none"
    assert a_recipe(adapter={"r": 1}).override(adapter={"r": None}).adapter == {}


def test_another_model_has_no_revision_yet() -> None:
    recipe = a_recipe(model={"name": "a", "revision": "r1", "dtype": "float32"})
    assert recipe.override(model="b").model == ModelSpec(name="b", dtype="float32")
    assert recipe.override(model="a").model.revision == "r1"
    assert recipe.override(model={"name": "b", "revision": "r2"}).model.revision == "r2"


def test_other_data_has_no_config_yet_but_the_same_columns() -> None:
    recipe = a_recipe(data={"source": "a", "config": "en", "columns": {"text": "t"}})
    assert recipe.override(data="b").data == DataSpec(source="b", columns={"text": "t"})
    assert recipe.override(data="a").data.config == "en"


def test_override_leaves_the_original_alone() -> None:
    recipe = a_recipe()
    recipe.override(train={"learning_rate": 1.0}, sample={"train": {"max_steps": 1}})
    assert recipe == a_recipe()


def test_the_sample_lays_its_overlay_over() -> None:
    resolved = a_recipe().resolved()
    assert resolved.train == {"learning_rate": 1e-3, "num_train_epochs": 3, "max_steps": 9}
    assert (resolved.model.name, resolved.data.source, resolved.sample) == ("/s/model", "/s/data", None)


def test_another_model_replaces_the_sample_and_its_overlay() -> None:
    resolved = a_recipe().override(model="openai/whisper-tiny").resolved()
    assert resolved.train == {"learning_rate": 1e-4, "num_train_epochs": 3}
    assert (resolved.model.name, resolved.data.source) == ("openai/whisper-tiny", "/s/data")


def test_what_is_said_counts_more_than_the_overlay() -> None:
    recipe = a_recipe().override(train={"learning_rate": 5e-4, "max_steps": None})
    assert recipe.resolved().train == {"learning_rate": 5e-4, "num_train_epochs": 3}
    assert recipe.override(model="x").resolved().train == {"learning_rate": 5e-4, "num_train_epochs": 3}


def test_resolved_repeats_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clips").mkdir()
    monkeypatch.chdir(tmp_path)
    resolved = a_recipe(model="x", data="clips", train={"output_dir": "runs/a"}).resolved()
    assert resolved.data.source == str(tmp_path / "clips")
    assert "output_dir" not in resolved.train
    assert resolved.resolved() == resolved


def test_text_too_long_for_a_path_stays_as_it_is() -> None:
    assert a_recipe(model="m", data="x" * 300).resolved().data.source == "x" * 300
    with pytest.raises(ToolkitError, match="no task named"):
        Recipe.load("x" * 300)


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        a_recipe(model="~nosuchuser/x").resolved()
    assert caught.value.message == "model.name: ~nosuchuser/x: there is no such user"


@pytest.mark.parametrize(
    ("sample", "missing"),
    [(None, "model and data"), ({}, "model and data"), ({"model": "m"}, "data"), ({"data": "d"}, "model")],
)
def test_without_a_sample_model_and_data_must_be_named(sample: dict[str, Any] | None, missing: str) -> None:
    with pytest.raises(RecipeError) as caught:
        a_recipe(sample=sample).resolved()
    assert caught.value.message == f"recipe 'mine' ships no sample {missing}"


def test_a_sample_of_data_is_enough_where_a_model_is_named() -> None:
    assert a_recipe(model="m", sample={"data": Path("/d")}).resolved().data.source == "/d"


def test_the_samples_structure_is_checked_like_the_recipes() -> None:
    sample = {
        "model": {"name": "m"},
        "data": None,
        "trian": {},
        "eval": {"befor": 1},
        "train": 3,
        "name": "x",
    }
    found = faults_of(plugins=["whisper"], sample={**sample, "whisper": 5})
    assert ("sample: unknown key 'trian'", "did you mean 'train'?") in found
    assert ("sample.eval.befor: unknown key 'befor'", "did you mean 'before'?") in found
    assert {message for message, _ in found} == {
        'sample.model: expected a name or a path, found {"name": "m"}',
        "sample: unknown key 'trian'",
        "sample.eval.befor: unknown key 'befor'",
        "sample.train: expected a mapping of settings, found 3",
        "sample: unknown key 'name'",
        "sample.whisper: expected a mapping of settings, found 5",
    }


def test_files_extend_tasks_and_files(tmp_path: Path) -> None:
    a_recipe().dump(tmp_path / "base.yaml")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nname: second\ntrain: {learning_rate: 1e-5}\n")
    recipe = Recipe.load(tmp_path / "mine.yaml")
    assert (recipe.name, recipe.train) == ("second", {"learning_rate": 1e-5, "num_train_epochs": 3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", 'holds ["a", "b"], not a recipe'),
        ("extends: mine.yaml\n", "`extends` comes back to this file"),
        ("extends: [a]\n", "extends: expected a task or a file"),
        ("1: 2\n", "not a recipe"),
        ("", "holds null, not a recipe"),
        ("&a [*a]", "holds [[...]], not a recipe"),
        ("adapter: &a {r: *a}\n", "adapter: contains itself"),
        ("extends: no-such-task\n", "no task named 'no-such-task'"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ToolkitError) as caught:
        Recipe.load(tmp_path / "mine.yaml")
    assert message in caught.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, reason in (
        ("gone.yaml", "No such file"),
        ("binary.yaml", "not text in UTF-8"),
        (".", "no task named"),
    ):
        with pytest.raises(ToolkitError, match=reason):
            Recipe.load(tmp_path / name if name != "." else ".")


@dataclass(frozen=True)
class Settings:
    language: str | None = None


def test_settings_are_those_of_loaded_plugins() -> None:
    recipe = a_recipe().with_settings({Settings: Settings("en")})
    assert recipe.settings(Settings).language == "en"
    assert recipe == a_recipe()
    with pytest.raises(RecipeError, match="settings class of no loaded plugin"):
        a_recipe().settings(Settings)


def test_changed_settings_are_not_answered_as_they_were() -> None:
    bound = a_recipe().with_settings({Settings: Settings("en")})
    assert bound.override(train={"seed": 1}, model="x").settings(Settings).language == "en"
    for changed in (
        bound.override(whisper={"language": "de"}),
        bound.override(plugins=["whisper", "more"]),
        bound.override(sample={"whisper": {"language": "de"}}).resolved(),
    ):
        with pytest.raises(RecipeError, match="settings class of no loaded plugin"):
            changed.settings(Settings)


def test_faults_gathered_twice_are_told_once() -> None:
    one, two, three = (RecipeError(f"fault {number}") for number in range(3))
    gathered = RecipeError.gather([one, two])
    for faults in ([*gathered.all, three], [gathered, three]):
        assert [fault.message for fault in RecipeError.gather(faults).all] == [
            "fault 0",
            "fault 1",
            "fault 2",
        ]


def test_validate_checks_the_real_classes() -> None:
    a_recipe().validate()
    with pytest.raises(RecipeError) as caught:
        a_recipe(train={"learning_rat": 1, "num_train_epochs": "three"}, adapter={"rr": 4}).validate()
    messages = [fault.message for fault in caught.value.all]
    assert "train.learning_rat: unknown key 'learning_rat'" in messages
    assert any(message.startswith("train.num_train_epochs: ") for message in messages)
    assert any("'rr'" in message for message in messages)
    assert caught.value.hint == "did you mean 'learning_rate'?"
