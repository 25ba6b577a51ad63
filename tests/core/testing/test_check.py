"""Where a plugin is checked, what is said of it, and the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Install
from tests.core.testing.conftest import PLUGINS, SOUND
from toolkit import PluginError, Recipe
from toolkit.testing import Project, Report, check_plugin, examine
from toolkit.testing.laws import LAWS
from toolkit.testing.subject import Subject

Sample = Callable[[str], Recipe]

EXTENSION = '''
"""The share of targets, and shorter rows in training."""
from toolkit import Metric, hookimpl

class Targets(Metric):
    higher_is_better = True

    def __init__(self):
        self.targets, self.rows = 0, 0

    def update(self, scored):
        self.targets, self.rows = self.targets + int(scored.loss.count), self.rows + len(scored.batch["row_id"])

    def merge(self, other):
        self.targets, self.rows = self.targets + other.targets, self.rows + other.rows

    def compute(self):
        return {"targets_a_row": self.targets / self.rows if self.rows else float("nan")}

@hookimpl
def toolkit_metrics():
    return [Targets()]

@hookimpl
def toolkit_run_finished(run):
    assert run.summary["after"]["targets_a_row"] > 0
'''


def put_task(install: Install, name: str, recipe: Recipe) -> None:
    """A task that ships the recipe's model and data as its sample."""
    sample = {"model": recipe.model.name, "data": recipe.data.source}
    values = f"name={name!r}, plugins={[*recipe.plugins]!r}, sample={sample!r}"
    source = f"from toolkit import Recipe\nrecipe = Recipe({values})"
    module = f"task_{name}"
    install(f"toolkit-{name}", tasks={name: module}, modules={module: source})


@pytest.fixture
def extension(install: Install) -> None:
    install(
        "toolkit-extension",
        plugins={"extension": "toolkit_extension"},
        modules={"toolkit_extension": EXTENSION},
    )


# ---- the recipe ------------------------------------------------------------------------------------------------------


def test_it_is_checked_in_the_task_that_names_it(sample_of: Sample, install: Install, tmp_path: Path) -> None:
    put_task(install, "mine", sample_of(SOUND))
    subject = Subject("broken", None, tmp_path)
    assert subject.recipe_name == "mine"
    assert subject.recipe.model.name == "tiny"
    assert subject.recipe.train["max_steps"] == 6


def test_what_brings_no_model_is_checked_in_any_task(extension: None, tmp_path: Path) -> None:
    subject = Subject("extension", None, tmp_path)
    assert subject.recipe_name == "causal-lm"
    assert subject.recipe.plugins == ("causal-lm", "extension")


def test_what_brings_a_model_and_no_task_needs_a_recipe(sample_of: Sample) -> None:
    sample_of(SOUND)
    report = examine("broken")
    [failed] = report.failed
    assert failed.law == "opens_its_task"
    assert failed.finding == "no installed task names the plugin 'broken' and ships a sample"
    assert "recipe='small.yaml'" in str(failed.hint)
    assert report.recipe is None
    assert report.status("loss_adds_up") == "not run"
    assert report.status("imports_nothing_heavy") == "passed"


def test_tasks_that_cannot_be_loaded_are_passed_over(
    sample_of: Sample, install: Install, tmp_path: Path
) -> None:
    install("toolkit-bad", tasks={"bad": "task_bad"}, modules={"task_bad": "1 / 0"})
    put_task(install, "mine", sample_of(SOUND))
    assert Subject("broken", None, tmp_path).recipe_name == "mine"


def test_a_recipe_file_will_do(sample_of: Sample, tmp_path: Path) -> None:
    sample_of(SOUND).dump(tmp_path / "own.yaml")
    assert Subject("broken", tmp_path / "own.yaml", tmp_path).recipe.name == "small"


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_a_broken_plugin_is_an_assertion_that_fails(sample_of: Sample) -> None:
    with pytest.raises(AssertionError) as caught:
        check_plugin("broken", sample_of("imports_nothing_heavy"))
    told = str(caught.value).splitlines()
    assert told[0] == "plugin 'broken' (toolkit-broken 0.1), in the recipe small"
    start = told.index(
        "  failed          Importing the plugin imports nothing heavy, such as torch or transformers."
    )
    assert told[start + 1] == "    importing imports_nothing_heavy imports torch"
    assert told[start + 2].startswith("    hint: import them inside the hooks")
    assert sum(line.startswith("  passed") for line in told) == len(LAWS) - 1


def test_a_plugin_that_is_not_there() -> None:
    with pytest.raises(PluginError, match="no plugin named 'whispr'"):
        check_plugin("whispr")


def test_a_hook_that_breaks_is_shown_with_its_place(sample_of: Sample) -> None:
    [failed] = examine("broken", sample_of("runs_to_its_end")).failed
    assert "AssertionError: the third step is one too many" in str(failed.finding)
    assert "runs_to_its_end.py, line 12, in on_step_end" in str(failed.finding)


def test_laws_of_what_an_extension_does_not_do_are_said_not_to_apply(
    extension: None, sample_of: Sample
) -> None:
    report = check_plugin("extension", sample_of(SOUND))
    assert {one.law for one in report.results if one.status == "passed"} == {
        "hooks_are_spelt_right",
        "imports_nothing_heavy",
        "opens_its_task",
        "metrics_add_up",
        "runs_to_its_end",
        "ranks_change_nothing",
    }
    assert all(one.finding for one in report.results if one.status != "passed")
    assert report.status("loss_adds_up") == "does not apply"
    assert Report.from_dict(report.as_dict()) == report


def test_a_plugin_that_computes_in_float32_alone(install: Install, sample_of: Sample, tmp_path: Path) -> None:
    """Sums are then compared as precisely as they can be."""
    recipe = sample_of(SOUND)
    source = (PLUGINS / f"{SOUND}.py").read_text()
    weighted = source.replace(".logits[:, :-1]", ".logits[:, :-1] @ torch.eye(TOKENS)").replace(
        "    from torch.nn.functional import", "    import torch\n    from torch.nn.functional import"
    )
    assert weighted != source
    install("toolkit-single", plugins={"single": "toolkit_single"}, modules={"toolkit_single": weighted})
    recipe = recipe.override(plugins=["single"])
    assert not Subject("single", recipe, tmp_path).is_exact
    assert {one.status for one in check_plugin("single", recipe).results} == {"passed"}


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_checks_one(sample_of: Sample, project: Project) -> None:
    sample_of(SOUND).dump(project.folder / "small.yaml")
    outcome = project.run(
        "plugins", "--check", "broken", "--recipe", "small.yaml", "--json"
    ).assert_finished()
    [document] = outcome.json
    assert (document["plugin"], document["ok"], document["recipe"]) == ("broken", True, "small")
    assert [one["law"] for one in document["laws"]] == [law.name for law in LAWS]


def test_the_command_fails_where_a_law_is_broken(sample_of: Sample, project: Project) -> None:
    sample_of("opens_its_task").dump(project.folder / "small.yaml")
    outcome = project.run("plugins", "--check", "broken", "--recipe", "small.yaml")
    assert outcome.status == 1
    assert "toolkit_metrics must return a list, returned Confidence" in outcome.out
    assert "not run         The loss of a batch is the sum over its rows" in outcome.out


def test_the_command_refuses_what_is_not_there(project: Project) -> None:
    project.run("plugins", "--check", "clipp").assert_refused(
        "no plugin named 'clipp'", "did you mean 'clip'?"
    )
    project.run("plugins", "--recipe", "x.yaml").assert_refused("--recipe is for one plugin", "--check NAME")


def test_of_all_plugins_the_broken_ones_stop_no_other(
    install: Install, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the toolkit have a test of their own; here each is broken before its task is opened."""
    for name, source in (("bad", "1 / 0"), ("leaves", "raise SystemExit(3)"), ("kept", EXTENSION)):
        install(f"toolkit-{name}", plugins={name: f"toolkit_{name}"}, modules={f"toolkit_{name}": source})
    install("toolkit-other", plugins={"kept": "toolkit_other"}, modules={"toolkit_other": EXTENSION})
    monkeypatch.setattr("toolkit.testing.check.LAWS", LAWS[:2])
    outcome = project.run("plugins", "--check", "--json")
    assert outcome.status == 1
    found = {one["plugin"]: one for one in outcome.json}
    assert {name: one["ok"] for name, one in found.items()} == {
        "bad": False, "leaves": False, "kept": False, "causal-lm": True, "clip": True, "whisper": True,
    }  # fmt: skip
    assert "ZeroDivisionError" in found["bad"]["laws"][0]["finding"]
    assert "toolkit-kept" in found["kept"]["laws"][0]["finding"]
    assert found["bad"]["laws"][1]["status"] == "not run"
