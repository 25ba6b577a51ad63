"""Laws of rows on their way to a batch."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import DataError, PluginError
from toolkit.testing.subject import DoesNotApply, Subject
from toolkit.types import Row

_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003"
    "010100c9fe92ef0000000049454e44ae426082"
)
_WAV = b"RIFF\x2c\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\x08\0\0\0\0\0\xff\x7f\0\0\1\x80"

_FILES = {
    "picture.png": _PNG, "sound.wav": _WAV, "words.txt": b"words\n",
    "empty.bin": b"", "empty.png": b"", "empty.wav": b"",
}  # fmt: skip
_PLAIN = {
    "nothing": None, "an empty text": "", "blanks": " \n", "an empty list": [], "a number": 7, "a nan": float("nan"),
    "a mapping": {"foreign": 1}, "a list of numbers": [1, 2], "a list of nothing": [None], "bytes": b"\0\xff\xfe",
    "the name of no file": "no/such/file.xyz",
}  # fmt: skip


def rows_are_prepared_alike(subject: Subject) -> None:
    """A row is prepared the same each time, and left as it was."""
    subject.asked_for("toolkit_prepare")
    from toolkit.testing.comparing import different_keys

    prepare = subject.plugins.prepare(subject.processor)
    if prepare is None:
        raise DoesNotApply("toolkit_prepare answers None in this recipe")
    for raw in subject.raw_rows:
        given = copy.deepcopy(raw)
        first, second = prepare(given), prepare(copy.deepcopy(raw))
        if changed := different_keys(raw, given):
            raise PluginError(
                f"toolkit_prepare changed {_listed(changed)} of the row it was given",
                hint="return a new row: {**row, ...}; the old one may be read again",
            )
        if unlike := different_keys(first, second):
            raise PluginError(
                f"prepared twice, a row has another {_listed(unlike)}",
                hint="leave what is random to toolkit_augment, which is given a generator",
            )


def bad_rows_are_answered(subject: Subject) -> None:
    """Rows that are empty, corrupt or foreign are used, or refused with DataError; nothing else is raised."""
    subject.asked_for("toolkit_columns", "toolkit_prepare", "toolkit_inspect", "toolkit_row_length")
    good = subject.raw_rows[0]
    columns = [column.name for column in subject.plugins.columns() if column.name in good]
    tried = [
        (column, what, value) for column in columns for what, value in _bad_values(subject, good[column])
    ]
    faults = [
        fault for column, what, value in tried if (fault := _answer(subject, good, column, what, value))
    ]
    if faults:
        raise PluginError(
            "\n".join(dict.fromkeys(faults)),
            hint="raise toolkit.DataError and say what is wrong: the row is put into quarantine, and the run goes on",
        )


def odd_inputs_are_answered(subject: Subject) -> None:
    """Inputs of `toolkit predict`, also empty or foreign ones, get plain data for an answer, or a DataError."""
    subject.asked_for("toolkit_predict")
    from toolkit.data.columns import names_given

    model, processor = subject.loaded
    predict = subject.plugins.predict(model.eval(), processor, names_given(subject.splits["train"]))
    odd = [
        "",
        " \n",
        "no/such/file.xyz",
        ".",
        "\N{SNOWMAN}",
        *(str(path) for path in _foreign_files(subject)),
    ]
    faults = [
        fault for one in odd for given in ([one], [one, "words"]) if (fault := _fault_of(predict, given))
    ]
    if faults:
        raise PluginError(
            "\n".join(faults),
            hint="return plain data, or raise toolkit.DataError and say what is wrong with the input",
        )


def _fault_of(predict: Callable[[list[str]], Any], given: list[str]) -> str | None:
    try:
        outputs = predict(given)
        json.dumps(outputs)
    except DataError:
        return None
    except Exception as error:
        return f"of {given}: {type(error).__name__}: {error}"
    if isinstance(outputs, Mapping) or len(outputs) == len(given):
        return None
    return f"of {given}: {len(outputs)} outputs"


def augmentation_is_the_generators(subject: Subject) -> None:
    """A random change to a row depends on the row and the generator alone, and leaves the row as it was."""
    subject.asked_for("toolkit_augment")
    import torch

    from toolkit.testing.comparing import different_keys

    changes = subject.plugins.augment()
    if not changes:
        raise DoesNotApply("toolkit_augment answers None in this recipe")
    for raw in subject.raw_rows:
        row = subject.prepare(raw)
        given = copy.deepcopy(row)
        made = []
        for noise in (1, 2):
            torch.manual_seed(noise)  # what it must not draw from
            generator, changed = torch.Generator().manual_seed(7), given
            for change in changes:
                changed = change(changed, generator)
            made.append(changed)
        if unlike := different_keys(*made):
            raise PluginError(
                f"changed twice with the same generator, a row has another {_listed(unlike)}",
                hint="draw from the generator that is given, such as torch.rand((), generator=generator)",
            )
        if spoilt := different_keys(row, given):
            raise PluginError(
                f"toolkit_augment changed {_listed(spoilt)} of the row it was given",
                hint="return a new row: {**row, ...}, with new tensors",
            )


def _bad_values(subject: Subject, good: Any) -> Iterator[tuple[str, Any]]:
    """What a cell may hold in data of the real world, with words for it."""
    yield from _PLAIN.items()
    for path in _foreign_files(subject):
        yield f"the file {path.name}", str(path)
        yield f"the bytes of {path.name}", {"bytes": path.read_bytes(), "path": path.name}
    if (whole := _bytes_of(good)) is not None:
        path = subject.folder / f"half{Path(str(good)).suffix if isinstance(good, str | Path) else ''}"
        path.write_bytes(whole[: len(whole) // 2])
        yield "half a file", str(path)
        yield "half of its bytes", {"bytes": whole[: len(whole) // 2], "path": None}


def _foreign_files(subject: Subject) -> Iterator[Path]:
    """A file of each kind, of which most are none that the plugin reads."""
    for name, content in _FILES.items():
        path = subject.folder / name
        path.write_bytes(content)
        yield path


def _bytes_of(cell: Any) -> bytes | None:
    """What a cell that stands for a file holds."""
    if isinstance(cell, Mapping) and isinstance(cell.get("bytes"), bytes):
        return bytes(cell["bytes"])
    try:
        return Path(cell).read_bytes() if isinstance(cell, str | Path) and Path(cell).is_file() else None
    except OSError:
        return None


def _answer(subject: Subject, good: Row, column: str, what: str, value: Any) -> str | None:
    """What is wrong with the way the plugin takes a bad row."""
    own = {
        "toolkit_inspect": subject.plugins.inspect(subject.processor),
        "toolkit_row_length": subject.plugins.row_length(),
    }
    asked = {hook: call for hook, call in own.items() if call is not None and subject.has(hook)}
    asked["toolkit_prepare and toolkit_collator"] = lambda one: subject.collator(
        [subject.prepare(one), subject.prepare(good)]
    )
    for hook, call in asked.items():
        try:
            call(copy.deepcopy({**good, column: value}))
        except DataError:
            continue
        except Exception as error:
            return f"{column} holds {what}: {hook} raised {type(error).__name__}: {error}"
    return None


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
