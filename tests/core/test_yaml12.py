from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from toolkit import RecipeError
from toolkit.yaml12 import read_yaml, write_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        ("-3", -3),
        ("007", 7),
        ("0x1F", 31),
        ("0o17", 15),
        (".5", 0.5),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("'1e-4'", "1e-4"),
        ("[q_proj, v_proj]", ["q_proj", "v_proj"]),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = read_yaml(text, "test")
    assert found == value
    assert type(found) is type(value)


def test_infinities_and_nan() -> None:
    assert read_yaml("[.inf, -.Inf]", "test") == [math.inf, -math.inf]
    assert math.isnan(read_yaml(".NaN", "test"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "my.yaml, line 2, column 1: key 'a' stands twice"),
        ("a: [1", "my.yaml, line 1"),
        ("a: {[1]: 2}", "my.yaml, line 1, column 5: key [1] is no plain value"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: \x00", "my.yaml: not YAML"),
    ],
)
def test_what_is_no_yaml_says_where(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_yaml(text, "my.yaml")
    assert message in caught.value.message


any_character = st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x85\u2028\u2029\ufeff\r\n ")
plain_text = st.text(any_character, max_size=12)
plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | plain_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
    max_leaves=12,
)


@given(plain_data)
@example({"a\x85b": "\u2028\u2029\ufeff"})
def test_what_is_written_reads_back_equal(data: object) -> None:
    assert read_yaml(write_yaml(data), "test") == data


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{place}: &a{place} [{', '.join([f'*a{place - 1}'] * 10)}]\n" for place in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [LAUGHS, "!!python/object/apply:os.system [exit]", "!!python/name:os.system x",
     "x: !!bool maybe", "x: !!timestamp soon", "x: !!float x", "x: 0x" + "f" * 5_000, "[" * 100_000],
)  # fmt: skip
def test_what_runs_or_explodes_is_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        read_yaml(text, "r.yaml")
