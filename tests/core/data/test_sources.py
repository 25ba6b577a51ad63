"""Where data comes from: what a source's name means, and sets of a hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Audio, Features, Value

import toolkit
from toolkit.data.sources import hub_splits, open_splits
from toolkit.errors import DataError, RecipeError
from toolkit.recipe import DataSpec

BYTES = {"bytes": b"abc", "path": "x.wav"}


def media_parquet(path: Path) -> None:
    """Rows with an audio feature that nothing here could decode."""
    features = Features({"audio": Audio(), "text": Value("string")})
    rows = [{"audio": BYTES, "text": text} for text in ("one", "two")]
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=features.arrow_schema), path)


@pytest.mark.parametrize(
    "source",
    ["./nothing", "/nothing/here", "nothing.csv", "data/train.jsonl", "a/b/c", "~/nothing", "two words", ""],
)
def test_what_looks_like_a_path_and_is_not_there(source: str, tmp_path: Path, monkeypatch) -> None:
    if not source:
        source = str(tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        open_splits(DataSpec(source=source))
    assert caught.value.message == f"data.source: {source} does not exist"


def test_a_name_too_long_for_a_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        open_splits(DataSpec(source="x" * 5000))


def test_streaming_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^data\.streaming: not supported") as caught:
        open_splits(DataSpec(source=str(tmp_path), streaming=True))
    assert caught.value.hint == "leave it out: rows are read from disk one at a time anyway"


def test_a_configuration_of_local_data_is_refused(write) -> None:
    path = write("train.jsonl", '{"a": 1}\n')
    with pytest.raises(RecipeError, match=r"^data\.config: 'en' has no meaning for the local data"):
        open_splits(DataSpec(source=str(path), config="en"))


def test_a_repository_of_data_files_is_not_decoded(tmp_path: Path, datasets_cache: Path) -> None:
    media_parquet(tmp_path / "repo/data/train-00000-of-00001.parquet")
    splits = hub_splits(str(tmp_path / "repo"), None)
    assert list(splits["train"]) == [{"audio": BYTES, "text": "one"}, {"audio": BYTES, "text": "two"}]


def test_a_configuration_that_is_not_there(tmp_path: Path, datasets_cache: Path) -> None:
    media_parquet(tmp_path / "repo/data/train-00000-of-00001.parquet")
    with pytest.raises(DataError, match="BuilderConfig 'fr' not found") as caught:
        hub_splits(str(tmp_path / "repo"), "fr")
    assert caught.value.hint == "choose a configuration: --set data.config=NAME"


ASK = """
import json, sys
from toolkit.data.sources import open_splits
from toolkit.errors import DataError
from toolkit.recipe import DataSpec
answers = []
for name in sys.argv[1:]:
    try:
        splits = open_splits(DataSpec(source=name))
        answers.append({split: [row["audio"]["path"] + row["text"] for row in rows] for split, rows in splits.items()})
    except DataError as fault:
        answers.append([fault.message, fault.hint])
print(json.dumps(answers))
"""


def test_sets_of_a_hub_come_from_the_net_then_from_the_cache(hub: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = hub
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    media_parquet(folder / "data/validation-00000-of-00001.parquet")
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(Path(toolkit.__file__).parents[1]),
    }

    def ask(**more: str) -> list:
        command = [sys.executable, "-c", ASK, "me/set", "me/sat"]
        ran = subprocess.run(
            command, env=environment | more, capture_output=True, text=True, cwd=tmp_path, check=True
        )
        return json.loads(ran.stdout)

    found = {"validation": ["x.wavone", "x.wavtwo"]}
    online, offline = ask(), ask(HF_HUB_OFFLINE="1")
    assert online[0] == offline[0] == found
    assert online[1][0].startswith("'me/sat' is no folder or file here, and cannot be loaded from the hub: ")
    assert online[1][1] == "check the spelling; for a private or gated set, log in: hf auth login"
    assert offline[1][1].startswith("HF_HUB_OFFLINE is set")
