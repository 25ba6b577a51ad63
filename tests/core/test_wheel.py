"""What is built is what is meant to be installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    [path] = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_top_level_is_ours_alone(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {
        "toolkit",
        "toolkit_causal_lm",
        "toolkit_whisper",
        "toolkit_clip",
        "toolkit_tasks",
    }


def test_types_and_samples_are_in_it(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {
        f"{top}/py.typed"
        for top in ("toolkit", "toolkit_causal_lm", "toolkit_whisper", "toolkit_clip", "toolkit_tasks")
    } <= names
    assert "toolkit_tasks/samples/causal_lm/data/train.jsonl" in names
    tasks = ("causal_lm", "clip_contrastive", "whisper_asr")
    assert {f"toolkit_tasks/samples/{task}/README.md" for task in tasks} <= names
    samples = [
        info for info in wheel.infolist() if info.filename.startswith("toolkit_tasks/samples/whisper_asr/")
    ]
    assert {"model/config.json", "model/model.safetensors", "data/train/metadata.csv"} <= {
        info.filename.removeprefix("toolkit_tasks/samples/whisper_asr/") for info in samples
    }
    assert sum(info.file_size for info in samples) <= 8_000_000


def test_the_templates_of_new_packages_are_in_it_whole(wheel: zipfile.ZipFile) -> None:
    templates = ROOT / "toolkit" / "templates"
    paths = [path for kind in ("task", "extension") for path in (templates / kind).rglob("*")]
    there = {path.relative_to(ROOT).as_posix() for path in paths if path.is_file()}
    there = {name for name in there if "__pycache__" not in name}
    assert len(there) > 150
    assert there <= set(wheel.namelist())


def test_the_entry_points_are_declared(wheel: zipfile.ZipFile) -> None:
    [name] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    text = wheel.read(name).decode()
    assert "toolkit = toolkit.cli:main" in text
    assert "[pytest11]\ntoolkit = toolkit.testing.pytest_plugin" in text
    assert "whisper = toolkit_whisper" in text
    assert "causal-lm = toolkit_causal_lm" in text
    assert "causal-lm = toolkit_tasks.causal_lm" in text
    assert "clip = toolkit_clip" in text
    assert "whisper-asr = toolkit_tasks.whisper_asr" in text
    assert "clip-contrastive = toolkit_tasks.clip_contrastive" in text
