"""What a stranger relies on: the contract is kept, and runs of Whisper and of anything else take the extension."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toolkit import Recipe
from toolkit.testing import Project, check_plugin

Rows = dict[str, list[dict[str, Any]]]
SHORT = ("--set", "train.max_steps=2", "--set", "data.limit=20", "--set", "eval.max_samples=10")
WHISPER = ("run", "--task", "whisper-asr", "--plugin", "extras", "--output-dir", "first", *SHORT)


def put(project: Project, rows: Rows) -> Path:
    for split, some in rows.items():
        project.write(f"speech/{split}.jsonl", some)
    return project.folder / "speech"


def test_the_plugin_keeps_the_contract(project: Project, rows: Rows, noise: Path) -> None:
    recipe = Recipe.load("whisper-asr").override(
        plugins=["whisper", "extras"],
        data=str(put(project, rows)),
        extras={"noise": str(noise), "min_rows": 2, "lengths": [1.5, 2, 2.5]},
    )
    report = check_plugin("extras", recipe)
    for law in ("augmentation_is_the_generators", "metrics_add_up", "resumed_is_never_stopped"):
        assert report.status(law) == "passed"


def test_a_run_tells_lengths_and_speakers_apart(project: Project, rows: Rows, noise: Path) -> None:
    settings = [f"extras.noise={noise}", "extras.min_rows=5", "extras.lengths=[2]"]
    sets = [part for one in settings for part in ("--set", one)]
    run = project.run(*WHISPER, "--data", put(project, rows), *sets).assert_finished()
    named = {"wer_0_2s", "wer_2s_up", "wer_speaker_ada", "wer_other_speakers", "wer_no_speaker"}
    for when in ("before", "after"):
        found = run.summary[when]
        assert {name for name in found if name.startswith("wer_")} - {"wer_raw"} == named
        parts = [found[name] for name in ("wer_0_2s", "wer_2s_up")]
        assert min(parts) <= found["wer"] <= max(parts)


def test_the_rate_of_one_group_is_that_of_all(project: Project, rows: Rows) -> None:
    alone = {split: [{**row, "speaker_id": "ada"} for row in some] for split, some in rows.items()}
    run = project.run(
        *WHISPER, "--data", put(project, alone), "--set", "extras.lengths=[30]"
    ).assert_finished()
    after = run.summary["after"]
    assert after["wer_speaker_ada"] == after["wer_0_30s"] == after["wer"]


def test_noise_changes_what_is_trained_on(project: Project, noise: Path) -> None:
    losses = []
    for name, given in (("clean", []), ("noisy", ["--set", f"extras.noise={noise}"])):
        run = project.run(*WHISPER[:5], "--output-dir", name, *SHORT, *given).assert_finished()
        losses.append(run.summary["train"]["loss"])
    assert losses[0] != losses[1]


def test_other_tasks_are_left_alone(project: Project) -> None:
    run = project.run("run", "--task", "clip-contrastive", "--plugin", "extras", *SHORT).assert_finished()
    assert not [name for name in run.summary["after"] if name.startswith("wer")]


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("lengths=[5, 2]", "extras.lengths: expected seconds that grow, found [5.0, 2.0]"),
        ("lengths=[]", "extras.lengths: expected seconds that grow, found []"),
        ("min_rows=0", "extras.min_rows: must be at least 1, found 0"),
        ("snr_db=[20, 5]", "extras.snr_db: must be the least, then the most, found [20, 5]"),
        ("noise=nowhere", "extras.noise: there are no recordings in 'nowhere'"),
    ],
)
def test_settings_that_cannot_be_are_refused(project: Project, setting: str, error: str) -> None:
    project.run(*WHISPER, "--set", f"extras.{setting}").assert_refused(error)
