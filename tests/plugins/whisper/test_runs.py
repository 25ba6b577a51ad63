"""Whole runs of nano models through the core: what only shows there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit import Recipe, RecipeError, Row, run

Clip = Callable[..., torch.Tensor]
Write = Callable[..., Path]
ROWS = {"max_bad_fraction": 0.2, "validation_fraction": 0.0}
TRAIN = {"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True, "save_strategy": "no"}


@pytest.fixture
def folder(multilingual: Any, tmp_path: Path) -> str:
    for part in multilingual:
        part.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def rows(clip: Clip, write: Write) -> Callable[..., list[Row]]:
    """Rows in the languages given, about a second each."""

    def make(*languages: str) -> list[Row]:
        return [
            {"path": str(write(f"{place}.wav", clip(1 + place / 10, place))), "sentence": "ab", "locale": one}
            for place, one in enumerate(languages)
        ]

    return make


def recipe(folder: str, **changes: Any) -> Recipe:
    return Recipe(name="speech", plugins=["whisper"], model=folder, train=TRAIN, **changes)


def test_languages_are_a_column_and_those_unknown_bad_rows(folder: str, rows: Any, in_tmp: Path) -> None:
    data = {"train": rows("de", "pt_BR", "elvish", "ja"), "test": rows("French", "zh-CN", "en")}
    made = run(recipe(folder, whisper={"max_new_tokens": 4}, data=ROWS), "first", data=data)
    assert made.summary["rows"] == {"train": 3, "validation": 0, "test": 3, "quarantined": 1}
    (bad,) = [json.loads(line) for line in Path("first/quarantine.jsonl").read_text().splitlines()]
    assert bad["row_id"] == 2
    assert bad["reason"].endswith("2.wav: 'elvish' is no language of Whisper's")
    assert len(made.predict([row["path"] for row in data["test"]])) == 3


def test_translations_are_english(folder: str, rows: Any, in_tmp: Path) -> None:
    settings = {"task": "translate", "max_new_tokens": 4}
    made = run(
        recipe(folder, whisper=settings), "first", data={"train": rows("de", "fr"), "test": rows("ja")}
    )
    tokenizer = made.processor.tokenizer
    assert (tokenizer.task, tokenizer.language) == ("translate", None)
    assert made.evaluate({"test": rows("ja")})["metrics"] == pytest.approx(made.summary["after"], rel=1e-5)


def test_without_the_column_the_settings_must_say_the_language(folder: str, rows: Any, in_tmp: Path) -> None:
    data = [{key: row[key] for key in ("path", "sentence")} for row in rows("de", "de", "de")]
    with pytest.raises(RecipeError, match=r"whisper\.language: the model is multilingual"):
        run(recipe(folder), "first", data=data)
    run(recipe(folder, whisper={"language": "de", "max_new_tokens": 4}), "second", data=data)


def test_a_recording_of_several_segments(folder: str, clip: Clip, write: Write, in_tmp: Path) -> None:
    """Five seconds, where the model takes two."""
    Path("../data").mkdir()
    times = [(0.0, 1.5, "a"), (1.5, 3.0, "b"), (3.0, 4.9, "c"), (3.0, 9.0, "over the end")]
    segments = [{"start": start, "end": end, "text": text} for start, end, text in times]
    talk = {"file_name": write("data/talk.wav", clip(5)).name, "language": "de", "segments": segments}
    Path("../data/metadata.jsonl").write_text(json.dumps(talk) + "\n")
    data = {"source": "../data", **ROWS, "max_bad_fraction": 0.25}
    made = run(recipe(folder, data=data), "first")
    assert made.summary["rows"] == {"train": 3, "validation": 0, "test": 0, "quarantined": 1}
    (bad,) = [json.loads(line) for line in Path("first/quarantine.jsonl").read_text().splitlines()]
    assert "the row's part of it is from 3 to 9 s" in bad["reason"]


def test_training_rows_are_changed_and_measured_ones_are_not(folder: str, rows: Any, in_tmp: Path) -> None:
    data = {"train": rows("de", "fr", "en", "ja"), "test": rows("de", "fr")}
    changes = {"speed": 0.1, "noise_snr_db": [5, 10], "time_masks": 1, "frequency_masks": 1}
    made = [
        run(recipe(folder, whisper={"max_new_tokens": 4, **one}, data=ROWS), name, data=data)
        for name, one in (("plain", {}), ("changed", changes))
    ]
    assert made[0].summary["before"] == made[1].summary["before"]
    assert made[0].summary["train"]["loss"] != made[1].summary["train"]["loss"]


@pytest.mark.parametrize(
    "wrong", [{"noise_snr_db": [5]}, {"noise_snr_db": 5}, {"speed": "fast"}, {"masks": 1}]
)
def test_settings_of_the_wrong_type(folder: str, rows: Any, in_tmp: Path, wrong: Any) -> None:
    with pytest.raises(RecipeError, match=r"whisper"):
        run(recipe(folder, whisper=wrong), "first", data=rows("de", "fr"))
    assert not Path("first").exists()


def samples(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "samples.jsonl").read_text().splitlines()]


def test_samples_are_shown_and_written(
    folder: str, rows: Any, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = recipe(folder, whisper={"max_new_tokens": 4}, data=ROWS).override(
        train={"eval_strategy": "steps"}
    )
    data = {"train": rows("de", "fr"), "validation": rows("de", "en"), "test": rows("fr", "de", "en", "ja")}
    made = run(changed.override(train={"eval_steps": 1}), "first", data=data)
    assert made.summary["artifacts"]["samples"] == "samples.jsonl"
    found = [(line["step"], line["split"], line["row_id"]) for line in samples("first")]
    test, validation = ("test", 3), ("validation", 2)
    expected = [(0, *test), (1, *validation), (2, *validation), (2, *test)]
    assert found == [(step, split, row) for step, split, count in expected for row in range(count)]
    assert all(line["reference"] == "ab" for line in samples("first"))
    shown = capsys.readouterr().err.splitlines()
    for place, line in enumerate(shown):
        if line.startswith(("before  ", "after   ", "step 1  validation", "step 2  validation")):
            assert shown[place + 1] == "  row 0  reference   ab"
            assert shown[place + 2].startswith("         prediction  ")
    assert sum(line.endswith("reference   ab") for line in shown) == len(found)


def test_samples_after_a_resume_are_those_of_a_run_that_never_stopped(
    folder: str, rows: Any, in_tmp: Path
) -> None:
    train = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "max_steps": 3,
    }
    changed = recipe(folder, whisper={"max_new_tokens": 4}, data=ROWS).override(train=train)
    data = {"train": rows("de", "fr"), "validation": rows("de", "en")}
    run(changed, "first", data=data)
    whole = samples("first")
    for step in (2, 3):
        shutil.rmtree(f"first/checkpoints/checkpoint-{step}")
    Path("first/summary.json").unlink()
    run(changed, "first", data=data, resume=True)
    assert samples("first") == whole
    assert [line["step"] for line in whole] == [0, 0, 1, 1, 2, 2, 3, 3]
