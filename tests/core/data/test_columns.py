"""Which column of the data is which column of a plugin."""

import doctest

import pytest

import toolkit.data.columns
from toolkit.data.columns import Keeping, _merged, in_batches, name_columns, with_columns
from toolkit.data.fingerprint import fingerprint
from toolkit.data.objects import data_from_objects
from toolkit.data.splits import with_validation
from toolkit.errors import DataError, RecipeError, ToolkitError
from toolkit.types import Column

TEXT = Column("text", usual=("sentence", "transcription"))
MEDIA = Column("media", usual=("picture", "file_name"))
NOTE = Column("note", required=False)


def named(
    row: dict[str, object], columns: list[Column], mapping: dict[str, str] | None = None
) -> dict[str, object]:
    splits = name_columns(data_from_objects([row]), columns, mapping or {})
    [result] = splits["train"]
    assert set(result) == set(splits["train"].columns)
    return result


def faults(
    splits: object, columns: list[Column], mapping: dict[str, str] | None = None
) -> list[ToolkitError]:
    with pytest.raises(ToolkitError) as caught:
        name_columns(data_from_objects(splits), columns, mapping or {})
    return list(caught.value.all)


def test_the_example_of_the_docstring() -> None:
    assert doctest.testmod(toolkit.data.columns) == (0, 4)


@pytest.mark.parametrize(
    ("row", "result"),
    [
        ({"text": "a", "sentence": "b"}, {"text": "a", "sentence": "b"}),
        ({"transcription": "a", "sentence": "b"}, {"text": "b", "transcription": "a"}),
        ({"transcription": "a", "id": 3}, {"text": "a", "id": 3}),
    ],
)
def test_a_column_is_known_by_its_name_then_by_its_usual_names(row: dict, result: dict) -> None:
    assert named(row, [TEXT]) == result


def test_a_mapping_goes_before_names_and_replaces_the_namesake() -> None:
    assert named({"text": "a", "said": "b"}, [TEXT], {"text": "said"}) == {"text": "b"}
    assert named({"text": "a", "said": "b"}, [TEXT], {"text": "text"}) == {"text": "a", "said": "b"}


def test_columns_can_change_places() -> None:
    columns = [Column("prompt"), Column("answer")]
    mapping = {"prompt": "answer", "answer": "prompt"}
    assert named({"prompt": 1, "answer": 2}, columns, mapping) == {"prompt": 2, "answer": 1}


def test_one_column_serves_two_only_where_the_mapping_says_so() -> None:
    prompt = Column("prompt", usual=("text",), required=False)
    assert named({"text": "a"}, [prompt, TEXT]) == {"text": "a"}
    assert named({"text": "a"}, [prompt, TEXT], {"prompt": "text", "text": "text"}) == {
        "prompt": "a",
        "text": "a",
    }
    [fault] = faults([{"text": "a"}], [prompt, TEXT], {"prompt": "text"})
    assert fault.message == "no column for 'text' in the data (columns: text)"


def test_columns_that_may_be_missing() -> None:
    assert named({"text": "a"}, [TEXT, NOTE]) == {"text": "a"}
    rows = name_columns(data_from_objects([{"text": "a", "note": 1}, {"text": "b"}]), [TEXT, NOTE], {})[
        "train"
    ]
    assert rows[1] == {"text": "b", "note": None}


def test_two_plugins_may_read_the_same_column() -> None:
    both = [Column("text", ("sentence",), required=False), Column("text", ("said",))]
    assert named({"said": "a"}, both) == {"text": "a"}
    assert faults([{"x": 1}], both)[0].message == "no column for 'text' in the data (columns: x)"


def test_a_required_column_that_is_nowhere() -> None:
    [fault] = faults([{"file_name": "a", "said": "b"}], [MEDIA, TEXT])
    assert isinstance(fault, DataError)
    assert fault.message == "no column for 'text' in the data (columns: file_name, said)"
    assert fault.hint == "say which it is: --set data.columns.text=said"


@pytest.mark.parametrize(
    ("row", "likely"), [({"file_name": "a", "said": "b"}, "said"), ({"file_name": "a"}, "COLUMN")]
)
def test_a_column_of_files_is_no_likely_text(row: dict[str, str], likely: str) -> None:
    [fault] = faults([row], [TEXT])
    assert fault.hint == f"say which it is: --set data.columns.text={likely}"


def test_a_misspelt_plugin_column_and_a_misspelt_data_column() -> None:
    first, second = faults([{"said": "b"}], [TEXT, NOTE], {"txet": "said", "note": "sad", "text": "said"})
    assert isinstance(first, RecipeError)
    assert first.message == "data.columns.txet: no plugin of this recipe reads a column 'txet'"
    assert first.hint == "did you mean 'text'?"
    assert isinstance(second, RecipeError)
    assert second.message == "data.columns.note: no column 'sad' in the data (columns: said)"
    assert second.hint == "did you mean 'said'?"


def test_splits_may_name_their_columns_differently_and_faults_name_the_split() -> None:
    splits = data_from_objects({"train": [{"text": "a"}], "test": [{"sentence": "b"}]})
    assert [name_columns(splits, [TEXT], {})[name][0] for name in splits] == [{"text": "a"}, {"text": "b"}]
    splits = {"train": [{"text": "a"}], "validation": [{"said": "b"}], "test": [{"said": "c"}]}
    [fault] = faults(splits, [TEXT])
    assert fault.message == "no column for 'text' in split 'validation' and split 'test' (columns: said)"
    assert len(faults({"train": [{"said": "a"}], "test": [{"said": "b"}]}, [TEXT])) == 1


def test_renaming_keeps_ids_places_and_the_fingerprint() -> None:
    splits = with_validation(data_from_objects([{"said": str(n)} for n in range(9)]), 0.3, 0)
    renamed = name_columns(splits, [TEXT], {"text": "said"})
    assert renamed["validation"].ids == splits["validation"].ids
    assert [row["text"] for row in renamed["train"]] == [str(row_id) for row_id in renamed["train"].ids]
    assert renamed["train"].place(0) == splits["train"].place(0)
    assert fingerprint(renamed) == fingerprint(splits)


# ---- rows that hold rows -------------------------------------------------------------------------------------

PARTS = Column("parts", required=False, holds_rows=True)
TALKS = [
    {"media": "a", "parts": [{"at": 0, "text": "one"}, {"at": 3, "text": "two", "media": "b"}]},
    {"media": "c", "text": "three", "parts": None},
    {"media": "d", "parts": []},
]


def test_rows_that_a_row_holds_take_its_place() -> None:
    rows = name_columns(data_from_objects(TALKS), [TEXT, MEDIA, PARTS], {})["train"]
    assert list(rows) == [
        {"media": "a", "text": "one", "at": 0},
        {"media": "b", "text": "two", "at": 3},
        {"media": "c", "text": "three", "parts": None},
    ]
    assert list(rows.ids) == [0, 1, 2]
    places = ["train, row 1, parts 1", "train, row 1, parts 2", "train, row 2"]
    assert [rows.place(index) for index in range(3)] == places


def test_a_column_of_rows_may_be_mapped() -> None:
    talks = [{"media": "a", "said": [{"text": "one"}, {"text": "two"}]}]
    rows = name_columns(data_from_objects(talks), [TEXT, MEDIA, PARTS], {"parts": "said"})["train"]
    assert [row["text"] for row in rows] == ["one", "two"]
    (fault,) = faults(TALKS[1:2], [TEXT, MEDIA, PARTS], {"parts": "said"})
    assert "no column 'said'" in fault.message


def test_what_holds_no_rows_stays() -> None:
    rows = [{"text": "a", "parts": ["x", "y"]}, {"text": "b", "parts": "z"}]
    assert list(name_columns(data_from_objects(rows), [TEXT, PARTS], {})["train"]) == rows


def test_a_column_that_no_part_has_is_missing() -> None:
    (fault,) = faults([{"media": "a", "parts": [{"at": 0}]}], [TEXT, MEDIA, PARTS])
    assert fault.message == "no column for 'text' in the data (columns: media, at)"


def test_data_of_nothing_but_empty_lists_is_empty() -> None:
    (fault,) = faults(TALKS[2:], [MEDIA, PARTS])
    assert "holds no rows" in fault.message


def test_the_fingerprint_knows_parts_and_what_is_in_them() -> None:
    def name(talks: list[dict[str, object]], chosen: slice = slice(None)) -> str:
        rows = name_columns(data_from_objects(talks), [TEXT, PARTS], {})["train"]
        return fingerprint({"train": rows[chosen]})

    other = [{**TALKS[0], "parts": [{"at": 0, "text": "uno"}, {"at": 3, "text": "two"}]}, *TALKS[1:]]
    assert name(TALKS) == name([dict(talk) for talk in TALKS])
    assert len({name(TALKS), name(other), name(TALKS, slice(1)), name(TALKS, slice(1, 2))}) == 4


SHAPES = [
    Column("chat", usual=("dialogue",), one_of="text"),
    Column("answer", one_of="text"),
    Column("text", one_of="text"),
    Column("prompt", required=False),
]


@pytest.mark.parametrize("given", [{"dialogue": 1}, {"answer": 1, "prompt": 2}, {"text": 1, "chat": 2}])
def test_columns_that_stand_for_one_another(given: dict[str, int]) -> None:
    rows = name_columns(data_from_objects([given]), SHAPES, {})["train"]
    assert {"chat" if name == "dialogue" else name: value for name, value in given.items()} == rows[0]


def test_none_of_several_columns() -> None:
    with pytest.raises(DataError) as caught:
        name_columns(data_from_objects([{"prompt": 1, "reply": 2}]), SHAPES, {})
    assert [fault.message for fault in caught.value.all] == [
        "no column for 'chat', 'answer' or 'text' in the data (columns: prompt, reply)"
    ]
    assert caught.value.hint == "say which it is: --set data.columns.text=reply"
    mapped = name_columns(data_from_objects([{"prompt": 1, "reply": 2}]), SHAPES, {"answer": "reply"})
    assert mapped["train"][0] == {"prompt": 1, "answer": 2}
    with pytest.raises(RecipeError) as wrong:
        name_columns(data_from_objects([{"reply": 2}]), SHAPES, {"answer": "repli"})
    assert [fault.message for fault in wrong.value.all] == [
        "data.columns.answer: no column 'repli' in the data (columns: reply)"
    ]


# ---- what comes along in batches -----------------------------------------------------------------------------


def test_a_column_that_one_plugin_wants_in_batches_is_in_them() -> None:
    read, wanted = Column("speaker"), Column("speaker", usual=("who",), required=False, in_batch=True)
    assert _merged([read, wanted]) == _merged([wanted, read]) == [Column("speaker", ("who",), in_batch=True)]
    assert in_batches([read, wanted, Column("text")]) == ["speaker"]


def test_rows_keep_their_columns_in_preparation_unless_it_makes_them() -> None:
    prepare = Keeping(
        lambda row: {"tokens": row["text"].split(), "seconds": 2.0}, ["speaker", "seconds", "room"]
    )
    prepared = prepare({"text": "a b", "speaker": "p225", "seconds": "two", "other": 1})
    assert prepared == {"speaker": "p225", "tokens": ["a", "b"], "seconds": 2.0}
    batch = with_columns({"num_targets": 2}, [prepared], ["speaker", "room"])
    assert batch == {"num_targets": 2, "columns": {"speaker": ["p225"], "room": [None]}}
    assert with_columns({"num_targets": 2}, [prepared], []) == {"num_targets": 2}
