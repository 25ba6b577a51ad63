"""Data given in code."""

import datasets
import pyarrow
import pytest
import torch
from datasets import Audio, Dataset, DatasetDict, Features, Image, Json, List, Value

from toolkit.data.objects import data_from_objects, undecoded
from toolkit.data.splits import limited
from toolkit.errors import DataError

BYTES = {"bytes": b"abc", "path": "x"}


def fault_of(data: object) -> DataError:
    with pytest.raises(DataError) as caught:
        data_from_objects(data)
    return caught.value


def media() -> Dataset:
    """A data set whose media would not decode: they are no media."""
    features = Features(
        {
            "sound": Audio(),
            "picture": Image(),
            "pictures": List(Image()),
            "deep": {"picture": Image(), "label": Value("int64")},
            "json": Json(),
            "text": Value("string"),
        }
    )
    row = {
        "sound": BYTES,
        "picture": BYTES,
        "pictures": [BYTES, BYTES],
        "deep": {"picture": BYTES, "label": 1},
        "json": '{"a": [1, "b"]}',
        "text": "hello",
    }
    table = pyarrow.Table.from_pylist([row] * 3, schema=features.arrow_schema)
    return Dataset(table)


def test_a_list_of_rows_is_train() -> None:
    given = [{"text": "a"}, {"text": "b", "n": 1}]
    splits = data_from_objects(given)
    assert list(splits) == ["train"]
    assert list(splits["train"]) == given
    assert splits["train"].columns == ("text", "n")
    splits["train"][0]["text"] = "changed"
    assert given[0]["text"] == "a"


def test_a_mapping_of_splits_under_any_usual_name() -> None:
    splits = data_from_objects(
        {"dev": [{"a": 1}], "train": Dataset.from_list([{"a": 2}]), "test": ({"a": 3},)}
    )
    assert {name: list(rows) for name, rows in splits.items()} == {
        "train": [{"a": 2}],
        "validation": [{"a": 1}],
        "test": [{"a": 3}],
    }


def test_a_dataset_dict_keeps_the_splits_we_know() -> None:
    one, two = Dataset.from_list([{"a": 1}]), Dataset.from_list([{"a": 1}, {"a": 2}])
    splits = data_from_objects(DatasetDict(train=one, validation=two, dev=one, unsupervised=one))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 1, "validation": 2}
    assert "splits: a, b" in fault_of(DatasetDict(a=one, b=one)).message


def test_a_torch_dataset_is_read_one_row_at_a_time() -> None:
    class Squares(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.asked: list[int] = []

        def __len__(self) -> int:
            return 1000

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            self.asked.append(index)
            return {"square": torch.tensor(index**2)}

    squares = Squares()
    rows = data_from_objects(squares)["train"]
    assert squares.asked == []
    assert (len(rows), int(rows[30]["square"])) == (1000, 900)
    assert squares.asked == [30]
    assert rows.columns == ("square",)
    assert squares.asked == [30, 0]


def test_nothing_that_keeps_bytes_is_decoded() -> None:
    [row, *_] = data_from_objects(media())["train"]
    assert row["sound"] == row["picture"] == row["deep"]["picture"] == BYTES
    assert row["pictures"] == [BYTES, BYTES]
    assert row["json"] == {"a": [1, "b"]}
    assert row["deep"]["label"] == 1


def test_undecoding_copies_nothing_and_leaves_the_given_dataset_alone() -> None:
    given = media()
    plain = undecoded(given)
    assert given.features["picture"].decode
    assert not plain.features["deep"]["picture"].decode
    addresses = [
        [
            buffer.address
            for chunk in one.data.column("picture").chunks
            for buffer in chunk.buffers()
            if buffer
        ]
        for one in (given, plain)
    ]
    assert addresses[0] == addresses[1]


def test_a_selection_of_a_dataset_keeps_its_own_order() -> None:
    given = Dataset.from_list([{"n": n} for n in range(10)]).select([7, 3, 5])
    rows = limited(data_from_objects(given), 2)["train"]
    assert [row["n"] for row in rows] == [7, 3]
    assert list(rows.ids) == [0, 1]


def test_a_row_that_is_no_mapping_is_that_rows_fault() -> None:
    rows = data_from_objects([{"a": 1}, ("b", 2)])["train"]
    assert rows[0] == {"a": 1}
    with pytest.raises(
        DataError, match="train, row 2: expected a mapping from columns to values, found tuple"
    ):
        rows[1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "split 'train' holds no rows"),
        ({"train": [{"a": 1}], "test": []}, "split 'test' holds no rows"),
        (Dataset.from_dict({"a": []}), "split 'train' holds no rows"),
        ({}, "the data has no split called train, validation or test (splits: none)"),
        ({"text": ["a", "b"]}, "the data has a split 'text'; splits are called train, validation, test"),
        ("train.csv", "split 'train': expected rows by number, found str"),
        (3, "split 'train': expected rows by number, found int"),
        ({"train": {"a": [1]}}, "split 'train': expected rows by number, found dict"),
        (
            Dataset.from_list([{"a": 1}]).to_iterable_dataset(),
            "split 'train': expected rows by number, found IterableDataset",
        ),
    ],
)
def test_what_is_no_data_is_refused(data: object, message: str) -> None:
    assert fault_of(data).message == message


def test_a_misspelt_split_is_no_silent_loss() -> None:
    assert fault_of({"train": [{"a": 1}], "validaton": [{"a": 1}]}).hint == "did you mean 'validation'?"


def test_streams_of_datasets_are_refused() -> None:
    streams = datasets.IterableDatasetDict(train=Dataset.from_list([{"a": 1}]).to_iterable_dataset())
    assert "found IterableDataset" in fault_of(streams).message
