"""Rows name files of the data's own folder, or of one that the recipe says; nothing leads elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from toolkit_tasks.whisper_asr import recipe as whisper_asr

from toolkit import DataError, Recipe, RecipeError
from toolkit.opening import open_data
from toolkit.plugins import Plugins

CLIP = Path(whisper_asr.sample["data"]) / "train" / "train_000.flac"  # type: ignore[index]


@pytest.fixture
def clips(in_tmp: Path) -> Path:
    """`data/` with a clip, `other/` with one, and a link from the one to the other."""
    for name in ("data/in.flac", "data/deep/in.flac", "other/out.flac"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIP, name)
    Path("data/link.flac").symlink_to("../other/out.flac")
    Path("data/linked").symlink_to("../other")
    Path("data/inner.flac").symlink_to("in.flac")
    return in_tmp


def read(table: str, audio: Any, source: str = "data", **data: Any) -> Path:
    """Where the only row of a table leads."""
    name = "file_name" if "metadata" in table else "audio"
    Path("data", table).write_text(json.dumps({name: audio, "text": "hello"}) + "\n")
    recipe = Recipe.load("whisper-asr").override(data={"source": source, "validation_fraction": 0.0, **data})
    row = open_data(Plugins(recipe.resolved()), None)["train"][0]
    found = row["audio"]
    return Path(found["path"] if isinstance(found, dict) else found)


TABLES = pytest.mark.parametrize("table", ["metadata.jsonl", "train.jsonl"])
WAYS_OUT = [
    "../other/out.flac", "deep/../../other/out.flac", "link.flac", "linked/out.flac", "../../../../../../etc/hostname",
    "{cwd}/data/../other/out.flac",
]  # fmt: skip
ABSOLUTE = ["/etc/hostname", "/dev/zero", "{cwd}/other/out.flac"]
WITHIN = ["in.flac", "deep/in.flac", "deep/../in.flac", "inner.flac", "./in.flac"]
BESIDE = ["../other/out.flac", "link.flac", "linked/out.flac", "{cwd}/other/out.flac", "in.flac"]


@TABLES
@pytest.mark.parametrize("audio", WITHIN)
def test_files_of_the_folder(table: str, audio: str, clips: Path) -> None:
    assert (
        read(table, audio.format(cwd=clips)).samefile(CLIP) or read(table, audio.format(cwd=clips)).is_file()
    )


@TABLES
@pytest.mark.parametrize("audio", WAYS_OUT)
def test_a_way_out_is_refused(table: str, audio: str, clips: Path) -> None:
    with pytest.raises(DataError, match="leads out of the data folder") as caught:
        read(table, audio.format(cwd=clips))
    assert "data.root=FOLDER" in str(caught.value.hint)


@pytest.mark.parametrize("audio", ABSOLUTE)
def test_an_absolute_path_is_for_manifests(audio: str, clips: Path) -> None:
    """A table says where its files are; metadata lies beside them."""
    with pytest.raises(DataError, match="leads out of the data folder"):
        read("metadata.jsonl", audio.format(cwd=clips))
    Path("data/metadata.jsonl").unlink()
    assert str(read("train.jsonl", audio.format(cwd=clips))) == audio.format(cwd=clips)


IN_METADATA: dict[str, Callable[[str], dict[str, Any]]] = {
    "a column": lambda out: {"audio": out, "text": "hello"},
    "a path": lambda out: {"audio": {"path": out}, "text": "hello"},
    "a column of another name": lambda out: {"recording": out, "text": "hello"},
    "a row in a row": lambda out: {"segments": [{"file_name": out, "text": "hello"}]},
}


@pytest.mark.parametrize("name", IN_METADATA)
def test_nothing_in_metadata_is_an_absolute_path_out(name: str, clips: Path) -> None:
    columns = {"audio": "recording"} if name == "a column of another name" else {}
    for out in (clips / "data/deep/in.flac", clips / "other/out.flac"):
        row = {"file_name": "in.flac", **IN_METADATA[name](str(out))}
        Path("data/metadata.jsonl").write_text(json.dumps(row) + "\n")
        recipe = Recipe.load("whisper-asr").override(data={"source": "data", "columns": columns})
        rows = open_data(Plugins(recipe.resolved()), None)["train"]
        if out.is_relative_to(clips / "data"):
            assert str(out) in str(rows[0]["audio"])
    with pytest.raises(DataError, match="leads out of the data folder"):
        rows[0]


@pytest.mark.parametrize("audio", WAYS_OUT)
@pytest.mark.parametrize("data", [None, "", "words"])
def test_a_path_without_bytes_is_no_way_out(data: str | None, audio: str, clips: Path) -> None:
    with pytest.raises(DataError, match="leads out of the data folder"):
        read("train.jsonl", {"bytes": data, "path": audio.format(cwd=clips)})
    assert read("train.jsonl", {"path": "in.flac"}).is_file()


@TABLES
@pytest.mark.parametrize("audio", BESIDE)
def test_the_recipe_says_how_far_rows_may_reach(table: str, audio: str, clips: Path) -> None:
    assert read(table, audio.format(cwd=clips), root="other").is_file()
    assert read(table, audio.format(cwd=clips), root="/").is_file()
    with pytest.raises(DataError, match="leads out"):
        read(table, "../../../../../../etc/hostname", root="other")


def test_a_manifest_alone_reaches_its_folder(clips: Path) -> None:
    assert read("list.jsonl", "deep/in.flac", source="data/list.jsonl").is_file()
    with pytest.raises(DataError, match="leads out"):
        read("list.jsonl", "../other/out.flac", source="data/list.jsonl")


@pytest.mark.parametrize("table", ["train.jsonl", "metadata.jsonl", "train/metadata.jsonl"])
def test_a_table_is_no_way_out(table: str, clips: Path) -> None:
    """Nor is the folder of a split; a table that is named itself may be a link."""
    line = json.dumps({"file_name": "in.flac", "audio": "in.flac", "text": "hello"}) + "\n"
    Path("other", Path(table).name).write_text(line)
    if "/" in table:
        Path("data/train").symlink_to("../other")
    else:
        Path("data", table).symlink_to(Path("../other", table))
    recipe = Recipe.load("whisper-asr").override(data={"source": "data", "validation_fraction": 0.0})
    with pytest.raises(DataError, match=f"^{table}: leads out of the data folder") as caught:
        open_data(Plugins(recipe.resolved()), None)
    assert "data.root=FOLDER" in str(caught.value.hint)
    for change in ({"root": "other"}, {"source": f"data/{table}"}):
        assert len(open_data(Plugins(recipe.override(data=change).resolved()), None)["train"]) == 1


@pytest.mark.parametrize("way", ["a link", "a name"])
def test_a_saved_dataset_is_no_way_out(way: str, clips: Path) -> None:
    for folder, text in (("data/saved", "hello"), ("other/saved", "secret")):
        Dataset.from_list([{"audio": "in.flac", "text": text}]).save_to_disk(folder)
    [arrow] = Path("data/saved").glob("*.arrow")
    state = json.loads(Path("data/saved/state.json").read_text())
    if way == "a link":
        arrow.unlink()
        arrow.symlink_to(Path("../../other/saved", arrow.name))
    else:
        state["_data_files"] = [{"filename": f"../../other/saved/{arrow.name}"}]
        Path("data/saved/state.json").write_text(json.dumps(state))
    recipe = Recipe.load("whisper-asr").override(data={"source": "data/saved"})
    with pytest.raises(DataError, match="leads out of the data folder"):
        open_data(Plugins(recipe.resolved()), None)


def test_a_snapshot_of_the_hubs_cache_is_links(clips: Path) -> None:
    repository = Path("cache/datasets--acme--clips")
    snapshot = repository / "snapshots" / ("a" * 40)
    for place in (repository / "blobs", snapshot):
        place.mkdir(parents=True)
    shutil.copy(CLIP, repository / "blobs" / "1")
    Path(repository, "blobs", "2").write_text("file_name,text\nin.flac,hello\nout.flac,hello\n")
    for name, target in (("in.flac", "../../blobs/1"), ("metadata.csv", "../../blobs/2")):
        Path(snapshot, name).symlink_to(target)
    Path(snapshot, "out.flac").symlink_to(clips / "other/out.flac")
    recipe = Recipe.load("whisper-asr").override(data={"source": str(snapshot), "validation_fraction": 0.0})
    rows = open_data(Plugins(recipe.resolved()), None)["train"]
    assert Path(rows[0]["audio"]).samefile(repository / "blobs" / "1")
    with pytest.raises(DataError, match="leads out of the data folder"):
        rows[1]


def test_a_link_beside_a_snapshot_is_no_way_out(clips: Path) -> None:
    snapshot = Path("cache/datasets--acme--clips/snapshots", "a" * 40)
    snapshot.mkdir(parents=True)
    Path(snapshot, "train.jsonl").write_text('{"audio": "out.flac", "text": "hello"}\n')
    Path(snapshot, "out.flac").symlink_to(clips / "other/out.flac")
    Path(snapshot, "../../blobs").symlink_to("/")
    recipe = Recipe.load("whisper-asr").override(data={"source": str(snapshot), "validation_fraction": 0.0})
    with pytest.raises(DataError, match="leads out of the data folder"):
        open_data(Plugins(recipe.resolved()), None)["train"][0]


def test_names_count_from_the_table_then_from_here(clips: Path) -> None:
    assert read("train.jsonl", "data/in.flac") == clips / "data" / "in.flac"
    assert read("train.jsonl", str(clips / "data" / "in.flac")) == clips / "data" / "in.flac"
    assert read("train.jsonl", "in.flac") == clips / "data" / "in.flac"
    assert Recipe.load("whisper-asr").override(
        data={"source": "data", "root": "other"}
    ).resolved().data.root == str(clips / "other")
    with pytest.raises(RecipeError, match=r"data\.root"):
        Recipe.load("whisper-asr").override(data={"root": 3})


def test_rows_given_in_code_reach_where_their_program_does(clips: Path) -> None:
    recipe = Recipe.load("whisper-asr").override(data={"source": "data", "validation_fraction": 0.0})
    rows = [{"audio": "other/out.flac", "text": "hello"}]
    assert open_data(Plugins(recipe.resolved()), rows)["train"][0]["audio"] == "other/out.flac"
