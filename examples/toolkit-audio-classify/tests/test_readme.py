"""What the README tells to type works, with the sample's model in place of a large one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import soundfile
from toolkit.testing import Project

import toolkit_audio_classify
from toolkit_audio_classify.sounds import write

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
MODEL = Path(toolkit_audio_classify.__file__).parent / "sample_model"
QUICK = ("--set", "train.max_steps=1", "--set", "eval.max_samples=4")


def put_recordings(folder: Path) -> None:
    """Somebody's recordings, of two classes."""
    folder.mkdir()
    rows = ["file_name,label"]
    for number in range(10):
        soundfile.write(folder / f"{number}.wav", 0.01 * np.ones(8000 * (1 + number)), 8000)
        rows.append(f"{number}.wav,{('dog', 'rain')[number % 2]}")
    (folder / "metadata.csv").write_text("\n".join(rows))


def test_what_the_readme_tells_to_type_works(project: Project) -> None:
    write(project.folder / "sounds")  # as the line of python does
    put_recordings(project.folder / "recordings")
    typed = [shlex.split(line)[1:] for line in re.findall(r"^toolkit .*$", README, re.MULTILINE)]
    assert [command[0] for command in typed] == ["run", "run", "predict", "run"]
    for command in typed:
        given = [str(MODEL) if one.startswith("MIT/") else one for one in command]
        project.run(*given, *(QUICK if command[0] == "run" else ())).assert_finished()
