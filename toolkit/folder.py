"""A run's folder: where each artifact lies, and how it is written and read."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from toolkit.checkpoint import all_onto_disk, ordered, read_json, write_json, write_text
from toolkit.errors import CheckpointError, Interrupted, RecipeError
from toolkit.lock import LOCK, locked, refuse_at_work
from toolkit.metrics import Sample
from toolkit.model_files import ADAPTER_CONFIG
from toolkit.notices import finite, json_text
from toolkit.recipe import Recipe
from toolkit.yaml12 import write_yaml

if TYPE_CHECKING:
    from toolkit.data.rows import BadRow

SCHEMA = 1
RECORD = "search.json"
"""What a search writes down, and begins with."""
_RECIPE = "recipe.yaml"
_PLACE: Mapping[str, Any] = {"step": int, "split": str}
_SAMPLE = {**_PLACE, "row_id": int, "prediction": object, "reference": object}
_BAD_ROW = {"split": str, "row_id": int, "reason": str}


@dataclass
class _Train:
    """What is read of `train` in a summary."""

    steps: int
    epochs: float
    seconds: float


@dataclass
class _Rows:
    """What is read of `rows` in a summary."""

    train: int
    validation: int
    test: int
    quarantined: int


@dataclass
class _Summary:
    """What is read of a summary."""

    status: str
    before: dict[str, float | None]
    after: dict[str, float | None]
    train: _Train
    rows: _Rows


@dataclass
class _Environment:
    """What is read of what a run began with; older runs wrote down less."""

    packages: dict[str, str] = dataclasses.field(default_factory=dict)
    data_fingerprint: str | None = None
    data_rows: dict[str, int] = dataclasses.field(default_factory=dict)
    base_model: dict[str, str | None] = dataclasses.field(default_factory=dict)
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    changes: list[Any] = dataclasses.field(default_factory=list)


class RunFolder:
    """The files of one run, by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / _RECIPE
        self.environment = path / "environment.json"
        self.summary = path / "summary.json"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples.jsonl"
        self.predictions = path / "predictions.jsonl"
        self.logs = path / "logs"
        self.quarantine = path / "quarantine.jsonl"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.unfinished_model = path / ".model.partial"

    def refuse_unless_new(self) -> None:
        """Raise `CheckpointError` if there is anything in the folder, or it is no folder and cannot be made."""
        with self.can_be_written():
            refuse_at_work(self.path)
            self.refuse_what_is_there()

    @contextmanager
    def can_be_written(self) -> Iterator[None]:
        """What the system refuses of the folder, as an error of ours."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be written: {error.strerror}",
                hint="see to rights and room, or name another folder with --output-dir",
            ) from error

    def refuse_what_is_there(self) -> None:
        """As `refuse_unless_new`, for the one who has the folder's lock."""
        if self.came_to_nothing():
            return
        if self.recipe.exists():
            raise CheckpointError(
                f"{self.path} holds another run",
                hint=f"go on with it: toolkit resume {self.path}, or name another folder with --output-dir",
            )
        if self.path.exists() and (not self.path.is_dir() or self._holds_anything()):
            raise CheckpointError(
                f"{self.path} is there already and is no empty folder",
                hint="name another folder with --output-dir",
            )
        there = next(parent for parent in self.path.absolute().parents if parent.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(there, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def _holds_anything(self) -> bool:
        """But what a run leaves that was cut off before it began: its lock, empty folders, half a recipe."""
        left = (LOCK, f".{self.recipe.name}.partial")
        own = (self.checkpoints, self.logs)
        return any(
            one.name not in left and not (one in own and one.is_dir() and not any(one.iterdir()))
            for one in self.path.iterdir()
        )

    @contextmanager
    def made_and_locked(self) -> Iterator[None]:
        """The folder for one run at a time; a new one is removed again when no run is begun in it.

        Raises:
            CheckpointError: it cannot be written, another run is at work in it, or there is no place for the model.
        """
        new = [one for one in (self.path, *self.path.parents) if not one.exists()]
        with contextlib.ExitStack() as stack:
            with self.can_be_written():
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.path))
            self._refuse_what_is_in_the_way()
            try:
                yield
            finally:
                if not self.recipe.exists():
                    stack.close()
                    self._take_back(new)

    def _refuse_what_is_in_the_way(self) -> None:
        """A link would have the run write elsewhere, and what is no folder would be met when all is trained."""
        for place in (self.model, self.unfinished_model, self.checkpoints, self.logs):
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                raise CheckpointError(
                    f"{place} is a link or a file, where a folder of the run shall be", hint="move it away"
                )
        for place in (self.metrics, self.samples, self.predictions, self.quarantine):
            if place.is_symlink() or (place.exists() and not place.is_file()):
                raise CheckpointError(
                    f"{place} is a link or a folder, where a file of the run shall be", hint="move it away"
                )

    def _take_back(self, new: Sequence[Path]) -> None:
        with contextlib.suppress(OSError):
            if new:
                shutil.rmtree(self.path)
            for parent in new[1:]:
                parent.rmdir()

    def came_to_nothing(self) -> bool:
        """Whether the folder's run failed before its first step, so that there is nothing in it to lose."""
        try:
            summary = self.read_summary() if self.summary.is_file() else {}
        except CheckpointError:
            return False
        return (
            summary.get("status") == "failed"
            and not summary["train"]["steps"]
            and not ordered(self.checkpoints)
        )

    def clear(self) -> None:
        """Remove what a run that came to nothing has left."""
        for place in (
            self.environment, self.summary, self.metrics, self.samples, self.predictions, self.quarantine,
        ):  # fmt: skip
            place.unlink(missing_ok=True)

    def forget_start(self) -> None:
        """Drop what was measured before training and which rows were bad, of rows or weights that are others now."""
        for path, lines in ((self.metrics, self._measured()), (self.samples, self._sampled())):
            _rewrite(path, (line for line in lines if line["step"]))
        self.quarantine.unlink(missing_ok=True)

    @classmethod
    def open(cls, place: str | Path) -> RunFolder:
        """The folder of a run that was begun.

        Raises:
            CheckpointError: there is none.
        """
        path = Path(place)
        folder = cls(path)
        name_one = "name the folder of a run, such as runs/NAME"
        if not str(place):
            raise CheckpointError("the name of the run's folder is empty", hint=name_one)
        if path.is_file():
            raise CheckpointError(f"{path} is a file, not a run's folder", hint=name_one)
        if not path.is_dir():
            raise CheckpointError(f"{path} does not exist", hint=name_one)
        if not folder.recipe.is_file():
            raise CheckpointError(
                f"{path} is no run: it holds no recipe.yaml",
                hint="name the folder that `toolkit run` printed",
            )
        return folder

    def read_recipe(self) -> Recipe:
        return Recipe.load(self.recipe)

    def read_summary(self) -> dict[str, Any]:
        """The summary, or an empty one while there is none.

        Raises:
            CheckpointError: it is damaged.
        """
        try:
            return _read(self.summary, _Summary) if self.summary.exists() else {}
        except CheckpointError as error:
            hint = f"bring it back from a copy, or remove it: toolkit resume {self.path} writes it anew"
            raise CheckpointError(error.message, hint) from error.__cause__

    def read_environment(self) -> dict[str, Any]:
        """What the run began with, or nothing where that was not written down.

        Raises:
            CheckpointError: it is damaged.
        """
        return _read(self.environment, _Environment) if self.environment.exists() else {}

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_json(self.summary, finite(summary))

    def artifacts(self) -> dict[str, str]:
        """What there is, by name, relative to the folder."""
        places = {
            "recipe": self.recipe, "environment": self.environment, "metrics": self.metrics, "samples": self.samples,
            "predictions": self.predictions, "checkpoints": self.checkpoints, "model": self.model,
            "quarantine": self.quarantine, "logs": self.logs,
        }  # fmt: skip
        return {name: str(place.relative_to(self.path)) for name, place in places.items() if place.exists()}

    def write_recipe(self, recipe: Recipe) -> None:
        """Without secrets, whole or not at all."""
        write_text(self.recipe, write_yaml(recipe.without_secrets().as_dict()))

    def finish_model(self) -> None:
        """Give the model, once all of it is written, its place."""
        all_onto_disk(self.unfinished_model)
        shutil.rmtree(self.model, ignore_errors=True)
        self.unfinished_model.rename(self.model)

    @property
    def has_adapter(self) -> bool:
        """Whether the model is an adapter, which needs its base model."""
        return (self.model / ADAPTER_CONFIG).is_file()

    # ---- lines that grow ---------------------------------------------------------------------------------

    def add_metrics(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        place = {"step": step, "split": split}
        _append(self.metrics, {**place, **finite(values), **place})

    def measured(self, step: int, split: str) -> dict[str, float] | None:
        """The metrics of a split as they were written at a step, or None."""
        for line in self._measured():
            if line["step"] == step and line["split"] == split:
                return {name: value for name, value in line.items() if name not in ("step", "split", "epoch")}
        return None

    def validation_lines(self) -> list[dict[str, Any]]:
        """What was measured on validation so far, in order."""
        return [line for line in self._measured() if line["split"] == "validation"]

    def _measured(self) -> list[dict[str, Any]]:
        return _lines(self.metrics, _PLACE, others=(int, float, NoneType))

    def add_sample(self, step: int, split: str, sample: Sample) -> None:
        _append(self.samples, {"step": step, "split": split, **finite(dataclasses.asdict(sample))})

    def write_predictions(self, predictions: Sequence[Sample]) -> None:
        lines = (json_text(finite(dataclasses.asdict(one))) + "\n" for one in predictions)
        self.predictions.write_text("".join(lines), encoding="utf-8")

    def sampled(self, step: int, split: str) -> list[Sample]:
        """The samples of an evaluation as they were written."""
        lines = [line for line in self._sampled() if (line.pop("step"), line.pop("split")) == (step, split)]
        return [Sample(**line) for line in lines]

    def _sampled(self) -> list[dict[str, Any]]:
        return _lines(self.samples, _SAMPLE)

    def cut_back(self, step: int, *, validated: bool = False) -> None:
        """Drop what was measured after `step` or after training, which will be again, and lines cut short.

        Args:
            validated: whether training had measured the validation rows at `step`; other lines of them are of later.
        """
        for path, lines, key in (
            (self.metrics, self._measured(), "split"),
            (self.samples, self._sampled(), "row_id"),
        ):
            kept: dict[Any, dict[str, Any]] = {}
            for place, line in enumerate(lines):
                at, split = line["step"], line["split"]
                if (
                    at > step
                    or (split == "test" and at)
                    or (split, at, validated) == ("validation", step, False)
                ):
                    continue
                kept.setdefault(
                    (split, at, line[key]) if split == "validation" and at == step else place, line
                )
            _rewrite(path, kept.values())
        _rewrite(self.quarantine, _lines(self.quarantine, _BAD_ROW))

    def add_bad_row(self, bad: BadRow) -> None:
        _append(self.quarantine, dataclasses.asdict(bad))

    def write_bad_rows(self, bad: Sequence[BadRow]) -> None:
        """These instead of those that were added."""
        if bad:
            _rewrite(self.quarantine, map(dataclasses.asdict, bad))
        else:
            self.quarantine.unlink(missing_ok=True)

    def bad_rows(self) -> list[BadRow]:
        from toolkit.data.rows import BadRow

        return [BadRow(**line) for line in _lines(self.quarantine, _BAD_ROW)]


@contextmanager
def known_where_to_go_on(place: str | Path) -> Iterator[None]:
    """Have what a signal ends name the folder to go on with, once there is a run or a search in it.

    Raises:
        Interrupted: a signal ended it, a second SIGINT too.
    """
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stop:
        interruption = stop if isinstance(stop, Interrupted) else Interrupted(signal.SIGINT)
        if any((expanded(place) / record).is_file() for record in (_RECIPE, RECORD)):
            interruption.folder = str(place)
        raise interruption from stop.__cause__


def expanded(place: str | Path) -> Path:
    """A path whose `~` is the user's folder."""
    if "\0" in str(place):
        raise RecipeError(f"{str(place)!r}: no folder has NUL in its name", hint="name another folder")
    try:
        path = Path(place).expanduser()
    except RuntimeError:
        raise RecipeError(f"{place}: there is no such user", hint="write the path in full") from None
    if not in_utf8(str(path.absolute())):
        raise RecipeError(f"{str(path.absolute())!r}: is no name in UTF-8", hint="name another folder")
    return path


def in_utf8(text: str) -> bool:
    """Whether text can be written in UTF-8; what the system gives in another encoding cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _rewrite(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    if path.exists():
        write_text(path, "".join(json_text(line) + "\n" for line in lines))


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json_text(line) + "\n")


def _read(path: Path, kind: type[Any]) -> dict[str, Any]:
    """The mapping that a file holds, which is one of `kind`, with more in it maybe."""
    content = read_json(path)
    try:
        TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{path} is damaged: {place}: {first['msg'][0].lower()}{first['msg'][1:]}",
            hint="bring it back from a copy, or start another run",
        ) from error
    return content


def _lines(path: Path, kinds: Mapping[str, Any], others: tuple[type, ...] = ()) -> list[dict[str, Any]]:
    """The lines of a file that hold a value of its kind by each key; one cut short by a crash is left out.

    Args:
        others: of which kind further values are, if there may be any.
    """
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and kinds.keys() <= values.keys():
            right = (isinstance(value, kinds.get(key, others)) for key, value in values.items())
            found += [values] if all(right) else []
    return found
