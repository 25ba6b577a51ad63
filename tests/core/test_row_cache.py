"""What plugins keep of rows: computed once, kept apart by what it depends on, within the cache's bounds."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit import DataError, Recipe, RowCache, cache
from toolkit.cli import main

VALUES = {"values": torch.arange(8, dtype=torch.uint8)}


def made(folder: Path, name: str = "squares", **settings: Any) -> RowCache:
    facts = {"version": settings.pop("version", 1)}
    return RowCache(Recipe(name="test", plugins=[], cache={"dir": str(folder), **settings}), name, **facts)


def asked(one: RowCache, key: str = "ab") -> bool:
    """Whether a row was computed for this key, and not read."""
    times = []
    found = one.get(key, lambda: times.append(1) or VALUES)  # type: ignore[func-returns-value]
    assert torch.equal(found["values"], VALUES["values"])
    return bool(times)


def test_a_row_is_computed_once(tmp_path: Path) -> None:
    one = made(tmp_path)
    assert [asked(one), asked(one), asked(one, "cd")] == [True, False, True]
    assert not asked(made(tmp_path)), "a later run reads it"
    assert not asked(pickle.loads(pickle.dumps(one))), "so does a worker"
    assert asked(made(tmp_path, version=2))
    assert asked(made(tmp_path, name="cubes"))
    entry = next(one for one in cache.kept(tmp_path) if one.rows == 2)
    assert entry.facts == {"stage": "squares", "model": "sample", "version": 1, "share": 0.5}


SQUARE = torch.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize(
    "tensors",
    [{"a": SQUARE.T}, {"a": SQUARE, "b": SQUARE[:1]}, {"a": SQUARE[:, :2]}, {"a": SQUARE[0, 0]}],
    ids=["transposed", "shared", "a part", "a number"],
)
def test_tensors_may_lie_in_memory_as_they_like(tensors: dict[str, Any], tmp_path: Path) -> None:
    one = made(tmp_path)
    one.get("ab", lambda: tensors)
    found = one.get("ab", lambda: pytest.fail("computed again"))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_cache_that_is_switched_off_is_not_touched(tmp_path: Path) -> None:
    one = made(tmp_path / "none", enabled=False)
    assert [asked(one), asked(one)] == [True, True]
    assert not (tmp_path / "none").exists()


def test_it_is_in_use_as_long_as_it_is_there(tmp_path: Path) -> None:
    one = made(tmp_path)
    asked(one)
    assert cache.kept(tmp_path)[0].users == [str(os.getpid())]
    del one
    assert cache.kept(tmp_path)[0].users == []


def test_another_in_this_process_still_uses_it(tmp_path: Path) -> None:
    one, other = made(tmp_path), made(tmp_path)
    assert [asked(one), asked(other)] == [True, False]
    del one
    assert cache.kept(tmp_path)[0].users


def test_a_number_that_another_process_has_meanwhile_is_no_use(tmp_path: Path, capsys: Any) -> None:
    """As in containers, whose processes have few numbers; one that is killed leaves its mark."""
    one = made(tmp_path)
    asked(one)
    [mine] = tmp_path.glob("frozen/*/in-use-*")
    (mine.parent / f"in-use-{os.getppid()}").touch()
    assert main(["cache", "--dir", str(tmp_path), "--clear"]) == 0
    assert f"in use by process {os.getpid()}\n" in capsys.readouterr().out
    assert list(mine.parent.glob("in-use-*")) == [mine]
    del one
    (mine.parent / f"in-use-{os.getpid()}").touch()
    assert main(["cache", "--dir", str(tmp_path), "--clear"]) == 0
    assert not cache.kept(tmp_path)


def test_what_cannot_be_computed_is_not_kept(tmp_path: Path) -> None:
    def fail() -> Any:
        raise DataError("no picture")

    one = made(tmp_path)
    with pytest.raises(DataError, match="no picture"):
        one.get("ab", fail)
    assert asked(one)


@pytest.fixture
def row(tmp_path: Path) -> int:
    """Bytes that a row takes on this disk."""
    asked(made(tmp_path / "probe"))
    return cache.kept(tmp_path / "probe")[0].bytes


def test_it_takes_half_of_the_cache(
    row: int, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.notices._said", set())
    one = made(tmp_path, max_gb=7 * row / 1e9)
    assert [asked(one, f"{key:02}") for key in range(6)] == [True] * 6
    assert [entry.rows for entry in cache.kept(tmp_path)] == [3]
    assert "cache: full at" in capsys.readouterr().err


def test_what_is_dearer_does_not_make_way_for_it(row: int, tmp_path: Path) -> None:
    """Rows may take half, and no more; then what was kept of other rows goes, and nothing else."""
    dear = cache.TensorStore(tmp_path, "dear", {"stage": "encoder"}, 10 * row)
    dear.open()
    for key in range(5):
        dear.write(f"{key:02}", VALUES)
    dear.close()
    old = made(tmp_path, "old", max_gb=10 * row / 1e9)
    assert all(asked(old, f"{key:02}") for key in range(2))
    del old
    one = made(tmp_path, max_gb=10 * row / 1e9)
    assert all(asked(one, f"{key:02}") for key in range(7))
    assert {entry.facts["stage"]: entry.rows for entry in cache.kept(tmp_path)} == {
        "encoder": 5,
        "squares": 5,
    }


def keys_in(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("frozen/*/*/*.safetensors")}


@pytest.mark.parametrize("at_once", [1, 10])
def test_rows_of_its_own_that_no_run_asks_for_any_more_go(
    at_once: int, row: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest unused first, when it is full; what another process uses stays."""
    monkeypatch.setattr(cache, "_AT_ONCE", at_once)
    most = 2 * 4 * row / 1e9
    one = made(tmp_path, max_gb=most)
    assert all(asked(one, key) for key in ("aa", "bb", "cc", "dd"))
    del one
    for used, key in enumerate(("bb", "aa", "cc", "dd")):
        os.utime(next(tmp_path.glob(f"frozen/*/*/{key}.safetensors")), (used, 9))
    one = made(tmp_path, max_gb=most)
    assert [asked(one, key) for key in ("aa", "ee", "ff", "aa")] == [False, True, True, False]
    assert keys_in(tmp_path) == {"aa", "dd", "ee", "ff"}
    other = made(tmp_path, max_gb=most)
    assert [asked(other, "gg"), asked(one, "gg")] == [True, True], "each keeps the other from it"
    assert keys_in(tmp_path) == {"aa", "dd", "ee", "ff"}


def test_what_is_too_much_goes_at_the_start(row: int, tmp_path: Path) -> None:
    one = made(tmp_path)
    assert all(asked(one, f"{key:02}") for key in range(6))
    del one
    assert not asked(made(tmp_path, max_gb=2 * 6 * row / 1e9), "00")
    assert len(keys_in(tmp_path)) == 6
    asked(made(tmp_path, max_gb=2 * 4 * row / 1e9), "05")
    assert len(keys_in(tmp_path)) == 4


def test_what_others_write_meanwhile_counts(
    row: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as another worker of the same run."""
    monkeypatch.setattr(cache, "_RECOUNT", 0)
    one, other = (made(tmp_path, max_gb=16 * row / 1e9) for _ in range(2))
    for key in range(10):
        asked(one, f"a{key}")
        asked(other, f"b{key}")
    assert cache.kept(tmp_path)[0].rows <= 9


def test_few_looks_at_what_is_there(row: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes the longer the more it is: one at the start, none in workers, and few where all is written."""
    looks, kept = [], cache.kept
    monkeypatch.setattr(cache, "kept", lambda root: looks.append(root) or kept(root))
    monkeypatch.setattr(cache, "_RECOUNT", 2 * row)
    one = made(tmp_path)
    assert all(asked(one, f"{key:02}") for key in range(20))
    assert len(looks) == 1
    one = made(tmp_path)
    assert not any(asked(one, f"{key:02}") for key in range(20))
    assert len(looks) == 2
    monkeypatch.setattr(cache, "parent_process", lambda: "a run")
    assert not asked(made(tmp_path), "01")
    assert len(looks) == 2


def test_what_dead_processes_have_left_is_cleared_up(tmp_path: Path) -> None:
    asked(made(tmp_path))
    [entry] = cache.kept(tmp_path)
    dead, alive = 2**22 + 1, os.getpid()
    for process in (dead, alive):
        (tmp_path / "frozen" / f".old.{process}.gone").mkdir()
        (entry.folder / "ab" / f"key.{process}.partial").write_text("half")
    asked(made(tmp_path, "other"), "cd")
    left = sorted(path.name for path in tmp_path.rglob("*") if path.suffix in (".gone", ".partial"))
    assert left == [f".old.{alive}.gone", f"key.{alive}.partial"]


def test_what_another_process_has_removed_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that make room at the same time take the same entry for the oldest one."""
    asked(made(tmp_path, "old"))
    [entry] = cache.kept(tmp_path)
    entry.remove()
    entry.remove()
    assert not cache.kept(tmp_path)
    asked(made(tmp_path, "old"))
    read_text = Path.read_text

    def removed_meanwhile(path: Path, **options: Any) -> str:
        text = read_text(path, **options)
        entry.remove()
        return text

    monkeypatch.setattr(Path, "read_text", removed_meanwhile)
    assert cache.kept(tmp_path) == []


def test_what_is_removed_by_hand_is_not_counted(tmp_path: Path) -> None:
    one = made(tmp_path)
    asked(one)
    shutil.rmtree(tmp_path / "frozen")
    assert (one.store.count(), one.store.bytes) == (0, 0)
    assert [asked(one), one.store.closed] == [True, True]


@pytest.mark.parametrize("stage", ["[]", '"x"', "null", "[" * 100_000, "{", "\0"])
def test_what_is_damaged_is_listed_and_cleared(stage: str, tmp_path: Path, capsys: Any) -> None:
    asked(made(tmp_path))
    [place] = tmp_path.glob("frozen/*")
    (place / cache.STAGE).write_text(stage)
    (place / "00").mkdir()
    (place / "00/loop.safetensors").symlink_to("loop.safetensors")
    (place / f"in-use-{10**22}").touch()
    assert main(["cache", "--dir", str(tmp_path)]) == 0
    assert main(["cache", "--dir", str(tmp_path), "--clear"]) == 0
    assert cache.kept(tmp_path) == []
