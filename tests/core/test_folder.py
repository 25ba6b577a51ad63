from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolkit import CheckpointError
from toolkit.checkpoint import read_json
from toolkit.data.rows import BadRow
from toolkit.folder import RunFolder
from toolkit.metrics import Sample


def test_metrics_are_lines_that_can_be_cut_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.add_metrics(0, "test", {"loss": 2.0, "wer": float("nan")})
    folder.add_metrics(10, "train", {"loss": 1.0})
    folder.add_metrics(20, "train", {"loss": 0.5})
    with folder.metrics.open("a") as file:
        file.write('{"step": 30, "sp')
    folder.cut_back(10)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert lines == [
        {"step": 0, "split": "test", "loss": 2.0, "wer": None},
        {"step": 10, "split": "train", "loss": 1.0},
    ]
    assert folder.measured(0, "test") == {"loss": 2.0, "wer": None}
    assert folder.measured(0, "validation") is None


def test_samples_are_found_by_step_and_split_and_cut_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    one, two = Sample(3, "so ähnlich", "so"), Sample(4, 1.5, 2)
    folder.add_sample(0, "test", one)
    folder.add_sample(0, "test", two)
    folder.add_sample(10, "validation", two)
    line = '{"step": 0, "split": "test", "row_id": 3, "prediction": "so ähnlich", "reference": "so"}'
    assert folder.samples.read_text(encoding="utf-8").splitlines()[0] == line
    folder.cut_back(9)
    assert not folder.metrics.exists()
    assert folder.sampled(0, "test") == [one, two]
    assert folder.sampled(10, "validation") == folder.sampled(0, "validation") == []
    assert folder.samples.read_text(encoding="utf-8").splitlines()[0] == line
    folder.clear()
    assert folder.sampled(0, "test") == []


def test_a_folder_in_use_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    RunFolder(tmp_path / "run").refuse_unless_new()
    RunFolder(tmp_path / "new").refuse_unless_new()
    (tmp_path / "run" / "recipe.yaml").write_text("name: x\n")
    with pytest.raises(CheckpointError, match="holds another run"):
        RunFolder(tmp_path / "run").refuse_unless_new()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_text("")
    (tmp_path / "file").write_text("")
    for name in ("other", "file"):
        with pytest.raises(CheckpointError, match="is there already and is no empty folder"):
            RunFolder(tmp_path / name).refuse_unless_new()
    assert not (tmp_path / "new").exists()


def test_what_a_run_leaves_that_never_began_is_nothing(tmp_path: Path) -> None:
    for name in ("checkpoints", "logs"):
        (tmp_path / name).mkdir()
    (tmp_path / ".recipe.yaml.partial").write_text("name:")
    RunFolder(tmp_path).refuse_unless_new()
    (tmp_path / "checkpoints" / "checkpoint-4").mkdir()
    with pytest.raises(CheckpointError, match="is there already and is no empty folder"):
        RunFolder(tmp_path).refuse_unless_new()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        RunFolder.open(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="is no run: it holds no recipe"):
        RunFolder.open(tmp_path)


def test_bad_rows_are_kept_with_their_reason(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.add_bad_row(BadRow("train", 3, "no such file: é\n"))
    assert folder.bad_rows() == [BadRow("train", 3, "no such file: é\n")]


def test_artifacts_are_those_that_exist(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.model.mkdir()
    folder.write_summary({"loss": float("inf")})
    assert folder.artifacts() == {"model": "model"}
    assert read_json(folder.summary) == {"loss": None}


JUNK = [b"[1]", b'"x"', b"null", b"{}", b"[" * 100_000, b"\xff", b'{"step": 0, "sp', b'{"step": "a", "split": "test"}',
        b'{"step": 1}', b'{"step": 0, "split": ["test"], "row_id": 0, "prediction": "a", "reference": "b"}',
        b'{"step": 0, "split": "test", "row_id": 0, "prediction": "a", "reference": "b", "more": "c"}',
        b'{"split": "test", "row_id": "a", "reason": "b"}', b'{"split": "test", "row_id": 1}']  # fmt: skip


def test_lines_that_are_others_are_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.add_metrics(0, "test", {"loss": 2.0, "wer": None})
    folder.add_sample(0, "test", Sample(3, "a", "b"))
    folder.add_bad_row(BadRow("train", 3, "broken"))
    written = [folder.metrics, folder.samples, folder.quarantine]
    good = [path.read_bytes() for path in written]
    for path, line in zip(written, good, strict=True):
        path.write_bytes(b"\n".join([*JUNK, line, *JUNK]))
    assert folder.measured(0, "test") == {"loss": 2.0, "wer": None}
    assert folder.validation_lines() == []
    assert folder.sampled(0, "test") == [Sample(3, "a", "b")]
    assert folder.bad_rows() == [BadRow("train", 3, "broken")]
    folder.cut_back(9)
    assert [path.read_bytes() for path in written] == good
