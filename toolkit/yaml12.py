"""YAML by the core schema of version 1.2: `1e-4` is a number, `no` is text, a key stands once."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from toolkit.errors import RecipeError

# https://yaml.org/spec/1.2.2/#1032-tag-resolution
_CORE_SCHEMA = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}

MOST_DIGITS = 1_000
"""Of a number."""
MOST_VALUES = 100_000
"""Of a document, those counted that stand for others by an alias."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012, as in the base

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _key_error(key_node, key, "is no plain value")
            if key in seen:
                raise _key_error(key_node, key, "stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _key_error(node: yaml.Node, key: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, f"key {key!r} {problem}", node.start_mark)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012, as in the base

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, (_pattern, _first) in _CORE_SCHEMA.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    if len(text) > MOST_DIGITS:  # hexadecimal ones can be read, but not be written in decimals
        raise ValueError(f"a number of {len(text)} digits")
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan"))


def _represent_str(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """Quoted so that line breaks which are none to YAML 1.2, and byte order marks, are escaped."""
    style = '"' if re.search("[\x85\u2028\u2029\ufeff]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_str)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def read_yaml(text: str, where: str) -> Any:
    """The plain data that `text` stands for; `where` names it in an error."""
    try:
        data = yaml.load(text, _Loader)
        _refuse_if_it_explodes(data)
        return data
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(
            f"{where}{place}: {error.problem}", hint="write YAML: `key: value`, two spaces a level"
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        # The last two where a tag says `!!bool` or `!!timestamp` of what is none.
        raise RecipeError(
            f"{where}: not YAML: {error}", hint="write YAML: `key: value`, two spaces a level"
        ) from None


def _refuse_if_it_explodes(data: Any) -> None:
    """Aliases of aliases make few lines stand for more values than there is memory."""
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if id(value) not in sizes:
            sizes[id(value)] = 0  # while it is counted: what contains itself is refused elsewhere
            sizes[id(value)] = 1 + sum(map(size, parts))
        return sizes[id(value)]

    if size(data) > MOST_VALUES:
        raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")


def write_yaml(data: Any) -> str:
    """`data` (plain) as YAML that `read_yaml` reads back equal."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
