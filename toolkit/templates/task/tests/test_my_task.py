"""What a stranger relies on: the plugin keeps the contract, and the task learns."""

from __future__ import annotations

from pathlib import Path

from toolkit.testing import Project, check_plugin

import toolkit_my_task

TEST_IMAGES = Path(toolkit_my_task.__file__).parent / "sample" / "data" / "test"


def test_the_plugin_keeps_the_contract() -> None:
    check_plugin("my-task")


def test_the_sample_is_learnt_and_the_model_is_used(project: Project) -> None:
    run = project.run("run", "--task", "my-task", "--output-dir", "first").assert_finished()
    before, after = (run.summary[when]["accuracy"] for when in ("before", "after"))
    assert after > 0.8 > before

    image = TEST_IMAGES / "across_0.png"
    answer = project.run("predict", "first", image, "--json").assert_finished().json
    assert answer["predictions"] == [{"input": str(image), "output": "across"}]


def test_classes_are_needed(project: Project) -> None:
    refused = project.run("run", "--task", "my-task", "--set", "my-task.classes=[]")
    refused.assert_refused("my-task.classes: expected two different names or more")


def test_rows_that_cannot_be_used_are_set_aside(project: Project) -> None:
    good = [
        {"image": str(image), "label": image.stem.partition("_")[0]}
        for image in TEST_IMAGES.glob("*.png")
    ]
    bad = [
        {**good[0], "label": "round"},
        {**good[0], "image": str(project.write("broken.png", b"\x89PNG"))},
    ]
    project.write("data/train.jsonl", [*good, *bad])
    arguments = [
        "--data",
        "data",
        "--set",
        "data.max_bad_fraction=0.2",
        "--set",
        "train.num_train_epochs=1",
    ]
    run = project.run(
        "run", "--task", "my-task", "--output-dir", "first", *arguments
    ).assert_finished()
    assert run.summary["rows"]["quarantined"] == 2
