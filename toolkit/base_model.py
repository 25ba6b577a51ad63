"""The model that a run began from: written down so that it is noticed when it has changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from toolkit.checkpoint import read_json, sha256_of
from toolkit.errors import CheckpointError
from toolkit.model_files import ADAPTER_CONFIG, PICKLES
from toolkit.recipe import ModelSpec


def base_model(spec: ModelSpec, begun: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """What a run is based on, and by what to tell it from any other.

    Args:
        begun: what this returned when a run began that goes on now.
    Returns:
        `name` (an absolute path or a hub id) and `revision`, with the `sha256` of a folder's weights or the hub's
        `commit`; neither of them for random weights and for a model that is nowhere but in memory. Where an adapter
        is trained further, it is the model beneath it.
    """
    spec = _beneath(spec)
    found: dict[str, Any] = {"name": spec.name, "revision": spec.revision}
    if spec.from_config:
        return found
    if Path(spec.name).is_dir():
        kind, value = "sha256", _weights(spec)
    else:
        kind, value = "commit", _commit(spec.name, as_begun(spec, begun))
    return found | ({kind: value} if value else {})


def refuse_changed(spec: ModelSpec, recorded: Mapping[str, Any]) -> None:
    """See that a folder still holds the weights that a run began from.

    Args:
        spec: the model as the run's recipe names it now.
        recorded: what `base_model` returned when the run began.
    Raises:
        CheckpointError: it has other weights, or is gone.
    """
    spec, then = _beneath(spec), recorded.get("sha256")
    if then is None:
        return
    if not Path(spec.name).is_dir():
        raise CheckpointError(
            f"the run's base model is gone: {spec.name} does not exist",
            hint="bring it back, or write in the run's recipe.yaml where it is now",
        )
    now = _weights(spec)
    if now != then:
        found = f"SHA-256 {now[:12]}… now" if now else "there are none now"
        raise CheckpointError(
            f"the weights of the base model {spec.name} have changed since the run ({found}, {then[:12]}… then)",
            hint="bring back the weights as they were; what was trained belongs to them alone",
        )


def as_begun(spec: ModelSpec, recorded: Mapping[str, Any]) -> str | None:
    """The revision to load: a hub model's commit at the time of the run, since its branches move."""
    asked = (recorded.get("name"), recorded.get("revision"))
    same = asked == (spec.name, spec.revision) and not Path(spec.name).is_dir()
    return recorded.get("commit", spec.revision) if same else spec.revision


def _beneath(spec: ModelSpec) -> ModelSpec:
    """The base model of the adapter in a folder; any other model as it is."""
    adapter = Path(spec.name, ADAPTER_CONFIG)
    if not adapter.is_file() or Path(spec.name, "config.json").is_file():
        return spec
    its = read_json(adapter)
    return replace(spec, name=its.get("base_model_name_or_path") or spec.name, revision=its.get("revision"))


def _weights(spec: ModelSpec) -> str | None:
    """SHA-256 of a folder's one file of weights; of several, that of what `sha256sum` prints of them in order."""
    files = sorted(path for path in Path(spec.name).iterdir() if path.is_file())
    weights = [path for path in files if path.suffix == ".safetensors"]
    weights = weights or [path for path in files if path.suffix in PICKLES]
    hashes = {path.name: sha256_of(path) for path in weights}
    if len(hashes) < 2:
        return next(iter(hashes.values()), None)
    listing = "".join(f"{value}  {name}\n" for name, value in hashes.items())
    return hashlib.sha256(listing.encode()).hexdigest()


def _commit(name: str, revision: str | None) -> str | None:
    """The commit of a hub model that was loaded: that of its files in the cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None
    place = re.search(r"snapshots/([0-9a-f]{40})/", Path(path).as_posix()) if isinstance(path, str) else None
    return place.group(1) if place else None
