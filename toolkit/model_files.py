"""The files of a model, in a folder or on the hub: what is there, and whether it is whole and may be read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.errors import ModelError
from toolkit.reach import blobs_beside, lies_in
from toolkit.recipe import ModelSpec
from toolkit.structure import show

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
_WEIGHTS = (".safetensors", *PICKLES)
AGAIN = "copy or download it again"
_TRUSTED = "where you trust its pickle, set model.use_safetensors: false; no more than weights is read then"


def json_of(place: str, name: str, revision: str | None) -> dict[str, Any] | None:
    """A JSON file of the model, or None where it has none."""
    path = file_of(place, name, revision)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no JSON: {error}", hint=AGAIN) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no settings", hint=AGAIN)
    return content


def file_of(place: str, name: str, revision: str | None) -> Path | None:
    """A file of a folder or of the hub, or None where it has none, or had none when it was last asked."""
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if Path(place).is_dir():
        path = Path(place, name)
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(place, name, revision=revision))
    except LocalEntryNotFoundError:
        if try_to_load_from_cache(place, name, revision=revision) is _CACHED_NO_EXIST:
            return None
        raise
    except EntryNotFoundError:
        return None


def weight_files(name: str, revision: str | None = None) -> list[Path]:
    """The files in safetensors that hold a model's weights; none where there are none.

    Args:
        name: a folder, or a name on the hub.
    """
    if not name:
        return []
    index = json_of(name, "model.safetensors.index.json", revision)
    names = sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]
    return [path for one in names if (path := file_of(name, one, revision)) is not None]


def is_whole(folder: Path, *needed: str) -> bool:
    """Whether a folder has all weights that an index names or that are `needed`, and some at all, none cut off."""
    from safetensors import SafetensorError, safe_open

    names = {path.name for path in folder.iterdir() if path.suffix in _WEIGHTS} | set(needed)
    for path in folder.glob("*.index*.json"):
        index = json_of(str(folder), path.name, None) or {}
        _check_index(index, path)
        names |= set(index["weight_map"].values())
    if not names or not all((folder / name).is_file() for name in names):
        return False
    try:
        for name in names:
            if name.endswith(".safetensors"):
                safe_open(folder / name, "pt")  # reads the header, and compares it with the length
    except (OSError, SafetensorError):
        return False
    return True


def holds(place: str) -> str:
    """What a folder holds, in brackets."""
    if not Path(place).is_dir():
        return ""
    names = sorted(path.name for path in Path(place).iterdir())
    return f" (it holds {few(names, 8)})" if names else " (it is empty)"


def few(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def refuse_links_out(place: str) -> None:
    """Refuse the folder of a model whose files lie elsewhere: what they say is saved with what is trained from it.

    Weights may be links, for they are large; so is all in a snapshot of the hub's cache, to blobs beside it.

    Raises:
        ModelError: a file is a link out of the folder, or an index names weights outside it.
    """
    folder = Path(place).resolve()
    if not folder.is_dir():
        return
    own = [folder, *blobs_beside(folder)]
    for path in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")):
        if path.suffix not in _WEIGHTS and not lies_in(path, own):
            raise ModelError(
                f"{Path(place, path.relative_to(folder))} is a link out of the model's folder",
                hint="put the file itself into the folder",
            )
    for path in folder.glob("*.index*.json"):
        _check_index(json_of(place, path.name, None) or {}, Path(place, path.name))


def _check_index(index: Mapping[str, Any], path: Path) -> None:
    named = index.get("weight_map")
    names = list(named.values()) if isinstance(named, Mapping) else [named]
    for name in names:
        if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(
                f"{path} names {show(name)} for weights, which is no file of the model's folder", hint=AGAIN
            )


def check_shares(facts: Mapping[str, Any], name: str, place: str) -> None:
    """Transformers takes any number for a share that is dropped, and ends when it first trains."""
    for key, value in facts.items():
        if isinstance(value, Mapping):
            check_shares(value, name, place)
        is_share = isinstance(value, int | float) and (
            "dropout" in key or key.endswith(("pdrop", "layerdrop"))
        )
        if is_share and not 0 <= value <= 1:
            raise ModelError(f"{key} in {name} of {place} is {value}, not from 0 to 1", hint=AGAIN)


def check_format(place: str, spec: ModelSpec) -> None:
    """Of the hub's models transformers sees to it."""
    if Path(place).is_dir() and not any(Path(place).glob("model*.safetensors*")):
        _refuse_format(place, spec)


def check_adapter(place: str, spec: ModelSpec) -> None:
    """Refuse an adapter in a pickle, which PEFT reads where there is nothing else, and one whose files lie elsewhere.

    Raises:
        ModelError: its weights are not in safetensors, a file is a link out of its folder, it names other adapters to
            be read with it, or its settings make no sense.
    """
    from toolkit.adapter_settings import NEEDS_MORE

    refuse_links_out(place)
    facts = json_of(place, ADAPTER_CONFIG, spec.revision) or {}
    check_shares(facts, ADAPTER_CONFIG, place)
    for key, value in facts.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ModelError(f"{key} in {ADAPTER_CONFIG} of {place} is {value}", hint=AGAIN)
    kind = str(facts.get("peft_type")).lower()
    if kind in NEEDS_MORE:
        raise ModelError(
            f"the adapter in {place} is of the kind '{kind}', which needs {NEEDS_MORE[kind]}",
            hint="load it in code, and give the model to `toolkit.run(recipe, model=...)`",
        )
    if file_of(place, ADAPTER_WEIGHTS, spec.revision) is not None:
        return
    if Path(place).is_dir():
        _refuse_format(place, spec)
    elif spec.use_safetensors:
        raise ModelError(f"{place} has no {ADAPTER_WEIGHTS}", hint=_TRUSTED)


def _refuse_format(place: str, spec: ModelSpec) -> None:
    """Say what is wrong with a folder without weights in safetensors, unless there are pickles, and they will do."""
    pickles = [path.name for path in sorted(Path(place).iterdir()) if path.suffix in PICKLES]
    if pickles and not spec.use_safetensors:
        return
    if pickles:
        raise ModelError(
            f"{place} has its weights only in {', '.join(pickles)}, a format that can hold programs",
            hint=_TRUSTED,
        )
    raise ModelError(
        f"{place} has no weights in safetensors{holds(place)}",
        hint="name a folder that `save_pretrained` wrote, or set from_config: true to start from random weights",
    )
