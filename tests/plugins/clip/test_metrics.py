"""Retrieval and zero-shot accuracy against sorting by hand and by brute force."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toolkit_clip import metrics
from toolkit_clip.metrics import Retrieval, ZeroShot, ranks
from torch import Tensor

from toolkit import Loss, Scored


def unit(*rows: list[float]) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows), dim=-1)


def slow_ranks(queries: Tensor, targets: Tensor, pairs: list[tuple[int, int]]) -> list[float]:
    """One score at a time."""
    found = []
    for query, vector in enumerate(queries):
        scores = [float(vector @ target) for target in targets]
        right = {target for one, target in pairs if one == query}
        best = max(scores[target] for target in right)
        wrong = [score for target, score in enumerate(scores) if target not in right]
        found.append(1 + sum(s > best + 1e-6 for s in wrong) + sum(abs(s - best) <= 1e-6 for s in wrong) / 2)
    return found


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), more=st.integers(0, 9), rows=st.integers(1, 25))
def test_ranks_in_blocks_are_those_of_brute_force(seed: int, count: int, more: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(-1, 2, (count, 3), generator=generator).float() + 0.25  # with many ties
    targets = torch.randint(-1, 2, (count + more, 3), generator=generator).float() + 0.25
    queries, targets = (torch.nn.functional.normalize(one, dim=-1) for one in (queries, targets))
    extra = torch.randint(0, count + more, (count,), generator=generator).tolist()
    owners = {(place % count, place) for place in range(count + more)}
    pairs = sorted(owners | set(enumerate(extra)))
    found, others = ranks(queries.split(rows), targets.split(rows), pairs)
    assert found.tolist() == slow_ranks(queries, targets, pairs)
    assert others.tolist() == slow_ranks(targets, queries, [(target, query) for query, target in pairs])


def test_features_are_kept_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "ROWS", 4)
    rows, grown = torch.arange(22.0).reshape(11, 2), metrics.Grown()
    for part in rows.split([3, 1, 0, 6, 1]):
        grown.add(part)
    assert [len(block) for block in grown.filled()] == [4, 4, 3]
    assert torch.equal(torch.cat(grown.filled()), rows)
    assert len(grown) == 11


def test_fifty_thousand_pairs_take_what_their_features_take() -> None:
    """In a process of its own; here of width 64, so that it is quick, and of fewer for the ranks."""
    shown = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    features, rows, grown = map(float, shown.stdout.split())
    assert grown - features < 24 + rows * 0.5e-3, "MB: a block of scores, and the keys"


GROWTH = """
import resource, torch
from toolkit_clip.metrics import Retrieval

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

torch.set_num_threads(1)
rows, width, at_once = 50_000, 64, 64
points = torch.nn.functional.normalize(torch.randn(at_once, width), dim=-1)
def fill(retrieval, rows):
    for start in range(0, rows, at_once):
        keys = range(start, start + at_once)
        retrieval.add(keys, points, [f"caption {key}" for key in keys], points, range(at_once))
small = Retrieval()
fill(small, 2048)
small.compute()
before = peak()
large = Retrieval()
fill(large, rows)
small.compute()
print(2 * rows * width * 4 / 1e6, rows, peak() - before)
"""


def test_recalls_by_hand() -> None:
    """Three images on a circle; the second's caption lies nearer to the third, whose own lies exactly."""
    images = unit([1, 0], [0, 1], [-1, 0.0])
    texts = unit([1, 0.1], [-1, 0.2], [-1, 0.0])
    retrieval = Retrieval()
    retrieval.add("abc", images, ["one", "two", "three"], texts, [0, 1, 2])
    found = retrieval.compute()
    assert found["i2t_recall@1"] == 1.0  # of what is there, "two" is nearest to the second image
    assert found["t2i_recall@1"] == pytest.approx(2 / 3)
    assert found["t2i_recall@5"] == 1.0
    assert found["t2i_median_rank"] == 1.0
    assert set(found) == {f"{way}_recall@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)} | {
        f"{way}_median_rank" for way in ("i2t", "t2i")
    }


def test_a_model_that_takes_all_for_the_same_finds_nothing() -> None:
    retrieval = Retrieval()
    same = unit(*[[0.3, 0.4, 0.5]] * 21)
    retrieval.add(range(21), same, range(21), same, list(range(21)))
    found = retrieval.compute()
    assert found["t2i_recall@10"] == found["i2t_recall@10"] == 0.0
    assert found["t2i_median_rank"] == 11.0  # 1, and half of the other 20


def test_captions_and_images_that_are_the_same_are_one() -> None:
    """Two images have the caption "sky"; the second has two captions; the first comes twice."""
    images = unit([1, 0], [0, 1], [1, 0.0])
    texts = unit([0.1, 1], [0.5, -1], [0.1, 1.0])
    retrieval = Retrieval()
    retrieval.add(["a", "b", "a"], images, ["sky", "blue", "sky"], texts, [0, 1, 1])
    assert len(retrieval.images.rows) == 2
    assert len(retrieval.texts.rows) == 2
    assert retrieval.pairs == {(0, 0), (1, 0), (1, 1)}
    found = retrieval.compute()
    assert found["i2t_recall@1"] == 0.5  # "blue" lies nearer to the first image than its own "sky"
    assert found["t2i_recall@1"] == 0.5  # "sky" is right for both images; "blue" finds the first


def scored(rows: slice, labels: list[str | None] | None = None) -> Scored:
    generator = torch.Generator().manual_seed(2)
    images, texts, classes = (
        torch.nn.functional.normalize(torch.randn((12, 5), generator=generator), dim=-1) for _ in range(3)
    )
    pixels = torch.randint(0, 256, (12, 3, 4, 4), generator=generator, dtype=torch.uint8)
    count = len(range(12)[rows])
    batch: dict[str, Any] = {
        "pixels": pixels[rows],
        "captions": [f"caption {place}" for place in range(12)[rows]],
        "image_of": torch.arange(count),
        "row_id": torch.arange(12)[rows],
    }
    outputs = {"image_embeds": images[rows], "text_embeds": texts[rows]}
    if labels is not None:
        batch["labels"], batch["classes"] = labels[rows], sorted({one for one in labels[rows] if one})
        outputs["class_embeds"] = torch.stack([classes[int(one)] for one in batch["classes"]])
    return Scored(Loss(torch.tensor(0.0), count, outputs=outputs), batch)


@pytest.mark.parametrize("kind", [Retrieval, ZeroShot])
def test_ranks_of_a_run_put_together_are_one(kind: Any) -> None:
    labels = [None, *[str(place % 4) for place in range(11)]]
    whole, first, second = kind(), kind(), kind()
    for rows in (slice(0, 5), slice(5, 12)):
        whole.update(scored(rows, labels))
    first.update(scored(slice(0, 5), labels))
    second.update(scored(slice(5, 12), labels))
    first.merge(pickle.loads(pickle.dumps(second)))
    first.merge(kind())
    assert first.compute() == whole.compute()
    assert all(0 <= value <= 12 for value in whole.compute().values())


def test_before_anything_is_measured_the_names_are_known() -> None:
    names = Retrieval().compute()
    assert all(math.isnan(value) for value in names.values())
    assert set(names) == set(Retrieval.higher_is_better)
    assert {name for name, higher in Retrieval.higher_is_better.items() if not higher} == {
        "i2t_median_rank",
        "t2i_median_rank",
    }
    assert math.isnan(ZeroShot().compute()["zero_shot_accuracy"])


def test_labels_are_guessed_among_those_that_are_there() -> None:
    accuracy = ZeroShot()
    outputs = {
        "image_embeds": unit([1, 0], [0, 1], [1, 1.1], [1, 0]),
        "class_embeds": unit([1, 0], [0, 1.0]),
    }
    batch = {"labels": ["cat", "dog", "cat", None], "classes": ["cat", "dog"], "row_id": torch.arange(4)}
    accuracy.update(Scored(Loss(torch.tensor(0.0), 4, outputs=outputs), batch))
    assert accuracy.compute() == {"zero_shot_accuracy": pytest.approx(2 / 3)}


def test_without_labels_there_is_no_such_value() -> None:
    accuracy = ZeroShot()
    accuracy.update(scored(slice(0, 4)))
    assert accuracy.compute() == {}
