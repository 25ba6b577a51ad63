"""Models and processors by folder or hub name, loaded so that nothing is silently wrong with them."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from toolkit.errors import ModelError, RecipeError, ToolkitError, did_you_mean, first_line
from toolkit.generation import check_generation
from toolkit.model_files import (
    ADAPTER_CONFIG,
    AGAIN,
    check_adapter,
    check_format,
    check_shares,
    few,
    file_of,
    holds,
    json_of,
    refuse_links_out,
)
from toolkit.quantization import check_packed, keep_unpacked, quantization_arguments
from toolkit.recipe import ModelSpec

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
_log = logging.getLogger(__name__)


def load_model(spec: ModelSpec | str | Path, cls: Any = None, **load: Any) -> Any:
    """The model that `spec` describes.

    The folder of an adapter gives its base model with the adapter on it, ready to be trained further, and with the
    generation settings that are kept beside the adapter.

        load_model("openai/whisper-small", load_in_4bit=True)
        load_model(recipe.model, WhisperForConditionalGeneration)

    Args:
        spec: a model of a recipe, or just a folder or a name on the hub. `dtype: auto` is the checkpoint's own on a
            GPU, but float32 for float16, which cannot be trained in, and for everything on a CPU, where half
            precision saves no time and loses small updates.
        cls: a class of transformers, or an Auto class, or several, of which the one for the checkpoint's type is
            taken; None: the one that the checkpoint names.
        load: `load_in_4bit`, `load_in_8bit`, a field of `ModelSpec`, or arguments of `from_pretrained`.
    Raises:
        ModelError: there is no such model, it cannot be reached, it is another architecture, it has no weights
            in safetensors, or some are missing.
        RecipeError: a setting is wrong.
    """
    spec, load = _merged(spec, load)
    quantization = quantization_arguments(spec)
    place = _place(spec.name)
    with (
        quiet(),
        _explained(f"the model {place} cannot be loaded", "see that its files are whole and of one model"),
    ):
        refuse_links_out(place)
        facts = json_of(place, "config.json", spec.revision)
        if facts is None:
            return _with_adapter(place, spec, cls, load)
        check_shares(facts, "config.json", place)
        cls = _of_several(cls, facts) or _named_class(place, facts, spec)
        _check_architecture(cls, facts, place)
        if spec.from_config:
            return _untrained(cls, place, spec, load)
        check_format(place, spec)
        arguments = {"dtype": _dtype(spec, facts), "revision": spec.revision, **quantization, **load}
        model, info = cls.from_pretrained(
            place,
            use_safetensors=spec.use_safetensors or None,  # None: a pickle where there is nothing else
            trust_remote_code=spec.trust_remote_code,
            output_loading_info=True,
            **{"ignore_mismatched_sizes": True, **arguments},
        )
        _check_complete(model, info, facts, place, replaced=load.get("ignore_mismatched_sizes", False))
        check_packed(model, place)
        keep_unpacked(model)
        check_generation(model)
    return model


def load_processor(spec: ModelSpec | str | Path, cls: Any) -> Any:
    """The tokenizer, feature extractor, image processor or processor that is kept with the model.

    Args:
        cls: its class, or an Auto class. The folder of an adapter that has no such files gives its base model's.
    Raises:
        ModelError: there is none, or it is another model's.
    """
    spec, _ = _merged(spec, {})
    place = _place(spec.name)
    hint = "the files that prepare a model's inputs belong beside its weights"
    with quiet(), _explained(f"no {cls.__name__} can be loaded from {place}{holds(place)}", hint):
        refuse_links_out(place)
        file_of(
            place, "config.json", spec.revision
        )  # says more than `cls` would where the hub does not answer
        base = _base_of(place, spec) if _is_bare_adapter(place) else None
        if base is not None:
            return load_processor(base, cls)
        processor = cls.from_pretrained(
            place, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
        _check_tokenizer(processor, place)
    return processor


# ---- what is asked for ---------------------------------------------------------------------------------


def _merged(spec: ModelSpec | str | Path, load: Mapping[str, Any]) -> tuple[ModelSpec, dict[str, Any]]:
    """`spec` with what `load` says of the same things, and the rest of `load`."""
    spec = spec if isinstance(spec, ModelSpec) else ModelSpec(name=str(spec))
    rest = dict(load)
    bits = [bits for bits in ("4bit", "8bit") if rest.pop(f"load_in_{bits}", False)]
    if len(bits) > 1:
        raise RecipeError(
            "load_in_4bit and load_in_8bit: a model is loaded in one of them", hint="leave one of the two out"
        )
    if "torch_dtype" in rest:
        rest["dtype"] = rest.pop("torch_dtype")
    fields = [field.name for field in dataclasses.fields(ModelSpec)]
    said = {key: rest.pop(key) for key in fields if key in rest} | ({"quantization": bits[0]} if bits else {})
    if "dtype" in said:
        said["dtype"] = str(said["dtype"]).removeprefix("torch.")
    spec = dataclasses.replace(spec, **said)
    if spec.dtype not in DTYPES:
        raise RecipeError(
            f"model.dtype: expected {', '.join(DTYPES)}, found '{spec.dtype}'",
            did_you_mean(spec.dtype, DTYPES) or "auto suits most models",
        )
    if spec.from_config and spec.quantization != "none":
        raise RecipeError(
            "model.quantization: random weights (from_config) are not quantized",
            hint="leave one of the two out",
        )
    return spec, rest


def _place(name: str) -> str:
    """The folder's absolute path, which an adapter will record as its base, or a name on the hub."""
    path = Path(name).expanduser()
    if len(name) > 4096 or max(map(len, path.parts), default=0) > 255:
        raise ModelError(
            f"no model has a name of {len(name)} letters", hint="name a model's folder, or a model on the hub"
        )
    if path.is_dir():
        return str(path.absolute())
    if path.exists():
        raise ModelError(
            f"{name} is a file, not a model's folder", hint="name the folder that holds config.json"
        )
    first, *rest = name.split("/")
    if first in ("", ".", "..", "~") or len(rest) > 1 or "\\" in name or (rest and Path(first).is_dir()):
        raise ModelError(
            f"the folder {name} does not exist", hint="name a model's folder, or a model on the hub"
        )
    return name


def _dtype(spec: ModelSpec, facts: Mapping[str, Any]) -> Any:
    import torch

    if spec.dtype != "auto":
        return getattr(torch, spec.dtype)
    stored = facts.get("dtype") or facts.get("torch_dtype")
    return "auto" if torch.accelerator.is_available() and stored != "float16" else torch.float32


# ---- what it is ------------------------------------------------------------------------------------------


def _named_class(place: str, facts: Mapping[str, Any], spec: ModelSpec) -> Any:
    """The class that wrote the checkpoint."""
    import transformers

    names = facts.get("architectures") or []
    if not names:
        return transformers.AutoModel
    if hasattr(transformers, names[0]):
        return getattr(transformers, names[0])
    automatic = [
        key for key, value in facts.get("auto_map", {}).items() if str(value).endswith(f".{names[0]}")
    ]
    if automatic and spec.trust_remote_code:
        return getattr(transformers, automatic[0])
    hint = (
        "its own code can be run with model.trust_remote_code: true"
        if automatic
        else "a newer transformers may know it"
    )
    raise ModelError(
        f"{place} is a {names[0]}, which transformers {transformers.__version__} does not know", hint
    )


def _of_several(cls: Any, facts: Mapping[str, Any]) -> Any:
    """Of several classes the one that the checkpoint's type fits, else the first."""
    if not isinstance(cls, tuple):
        return cls
    fitting = (one for one in cls if one.config_class.model_type == facts.get("model_type"))
    return next(fitting, cls[0])


def _check_architecture(cls: Any, facts: Mapping[str, Any], place: str) -> None:
    """Transformers loads a model of one type into the class of another, and draws at random what is missing."""
    if getattr(cls, "_model_mapping", None) is not None:
        _check_automatic(cls, facts, place)
    expected, found = getattr(cls, "config_class", None), facts.get("model_type")
    if expected is None or found is None or found == expected.model_type or expected.base_config_key in facts:
        return
    wrote = ", ".join(facts.get("architectures") or [found])
    raise ModelError(
        f"{place} holds a {wrote} (model_type '{found}'), not a {cls.__name__} ('{expected.model_type}')",
        hint=f"name a model of type '{expected.model_type}', or run a task for '{found}'",
    )


def _check_automatic(cls: Any, facts: Mapping[str, Any], place: str) -> None:
    """An Auto class takes a part of a model for the whole, where there is a class for such a part."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    wrote, found = facts.get("architectures") or [], facts.get("model_type")
    if not wrote or facts.get("auto_map"):
        return
    whole, body = (names.get(found, ()) for names in (cls._model_mapping._model_mapping, MODEL_MAPPING_NAMES))
    fitting = {name for names in (whole, body) for name in ([names] if isinstance(names, str) else names)}
    if whole != body and (not whole or fitting.isdisjoint(wrote)):
        raise ModelError(
            f"{place} holds a {', '.join(wrote)} (model_type '{found}'), which is nothing for {cls.__name__}",
            hint=f"name another model, or run a task for '{found}'",
        )


def _check_complete(model: Any, info: Mapping[str, Any], facts: Any, place: str, *, replaced: bool) -> None:
    """Refuse weights that are missing or misshapen, but for a new head, which is there to be trained."""
    missing = sorted(info["missing_keys"])
    misshapen = {key: (tuple(there), tuple(here)) for key, there, here in sorted(info["mismatched_keys"])}
    name = type(model).__name__
    other_head = name not in (facts.get("architectures") or [name])
    in_body = [key for key in missing if key.startswith(f"{model.base_model_prefix}.")]
    if misshapen and not replaced:
        key, (there, here) = next(iter(misshapen.items()))
        raise ModelError(
            f"{place}: {len(misshapen)} of {name}'s weights have another shape: {key} is {there}, not {here}",
            hint="config.json and the weights are not of the same model",
        )
    if in_body or (missing and not other_head):
        raise ModelError(
            f"{place} lacks {len(missing)} of {name}'s weights: {few(missing)}",
            hint="the download or copy is incomplete, or the weights are another model's",
        )
    if missing or misshapen:
        _log.warning(
            "%s starts with random weights where %s has none: %s", name, place, few([*missing, *misshapen])
        )


def _check_tokenizer(processor: Any, place: str) -> None:
    """Without its files a tokenizer is made all the same, with nothing in it; nor is its length looked at."""
    from transformers import PreTrainedTokenizerBase

    tokenizer = getattr(processor, "tokenizer", processor)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return
    most = tokenizer.model_max_length
    if not isinstance(most, int | float) or not most >= 1:
        raise ModelError(f"model_max_length in tokenizer_config.json of {place} is {most!r:.60}", hint=AGAIN)
    if not set(tokenizer.get_vocab()) - _special(tokenizer):
        names = ", ".join(dict.fromkeys(["tokenizer.json", *tokenizer.vocab_files_names.values()]))
        raise ModelError(f"{place} has no tokenizer{holds(place)}", hint=f"put its files there: {names}")


def _special(tokenizer: Any) -> set[str]:
    return {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}


# ---- other ways to a model -----------------------------------------------------------------------------


def _untrained(cls: Any, place: str, spec: ModelSpec, load: Mapping[str, Any]) -> Any:
    """Random weights, from torch's global generator."""
    import torch
    from transformers import AutoConfig

    known = getattr(cls, "config_class", None) or AutoConfig
    remote = {"trust_remote_code": spec.trust_remote_code} if known is AutoConfig else {}
    config = known.from_pretrained(place, revision=spec.revision, **remote)
    config.name_or_path = ""  # an adapter must not record a base model that has other weights
    dtype = torch.float32 if spec.dtype == "auto" else getattr(torch, spec.dtype)
    make = cls.from_config if known is AutoConfig else cls._from_config
    model = make(config, dtype=dtype, **remote, **load).eval()
    _set_generation(model, place, spec.revision)
    return model


def _set_generation(model: Any, place: str, revision: str | None) -> None:
    """Have the model generate as the settings in `place` say, where there are any."""
    from transformers import GenerationConfig

    if model.can_generate() and file_of(place, "generation_config.json", revision):
        model.generation_config = GenerationConfig.from_pretrained(place, revision=revision)
    check_generation(model)


def _is_bare_adapter(place: str) -> bool:
    """Whether the folder holds an adapter and nothing to prepare inputs with."""
    folder = Path(place)
    others = ("tokenizer*", "vocab*", "*processor_config.json", "*.model")
    return (folder / ADAPTER_CONFIG).is_file() and not any(
        path for other in others for path in folder.glob(other)
    )


def _base_of(place: str, spec: ModelSpec) -> ModelSpec | None:
    """The model that an adapter was trained on, or None where there is no adapter."""
    adapter = json_of(place, ADAPTER_CONFIG, spec.revision)
    if adapter is None:
        return None
    if not adapter.get("base_model_name_or_path"):
        raise ModelError(
            f"the adapter in {place} does not say what its base model is",
            hint="write it in " + ADAPTER_CONFIG,
        )
    base = dataclasses.replace(
        spec, name=adapter["base_model_name_or_path"], revision=adapter.get("revision")
    )
    try:
        _place(base.name)
    except ModelError as error:
        raise ModelError(
            f"the adapter in {place} needs its base model: {error.message}", error.hint
        ) from error
    folder = Path(base.name).expanduser()
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"the adapter in {place} names {folder} as its base model, which is an adapter itself",
            hint=f"name the model that it was trained on in {ADAPTER_CONFIG}",
        )
    return base


def _with_adapter(place: str, spec: ModelSpec, cls: Any, load: Mapping[str, Any]) -> Any:
    base = _base_of(place, spec)
    if base is None:
        raise ModelError(
            f"{place} has no config.json{holds(place)}", hint="name a folder that `save_pretrained` wrote"
        )
    from huggingface_hub.errors import LocalEntryNotFoundError

    from toolkit.adapters import load_adapter

    check_adapter(place, spec)
    model = load_model(base, cls, **load)
    with suppress(LocalEntryNotFoundError):  # offline, where they were not downloaded with the adapter
        _set_generation(model, place, spec.revision)
    return load_adapter(model, place, spec.revision, to_train=True)


# ---- errors and noise ----------------------------------------------------------------------------------


@contextmanager
def _explained(what: str, hint: str | None = None) -> Iterator[None]:
    """Whatever the libraries raise over a model they cannot load, as an error that says what could not be done."""
    try:
        yield
    except ToolkitError:
        raise
    except Exception as error:
        reason, better_hint = _reason(error)
        raise ModelError(f"{what}: {reason}", better_hint or hint) from error


def _reason(error: Exception) -> tuple[str, str | None]:
    """Why, in a sentence, and what to do."""
    from huggingface_hub import errors as hub
    from safetensors import SafetensorError

    known: dict[type[Exception], tuple[str, str]] = {
        hub.HFValidationError: ("there is no such folder, and no hub has such a name", "check the name"),
        hub.GatedRepoError: (
            "its owner grants access",
            "ask for it on the model's page, then `hf auth login`",
        ),
        hub.RepositoryNotFoundError: (
            "neither a folder nor the hub has it",
            "check the name, or `hf auth login`",
        ),
        hub.RevisionNotFoundError: ("the hub has no such revision of it", "check model.revision"),
        hub.LocalEntryNotFoundError: (
            "there is no such folder, and the hub cannot be reached",
            "check name and network",
        ),
        SafetensorError: ("the file with the weights is damaged or cut off", AGAIN),
    }
    for kind, answer in known.items():
        if isinstance(error, kind) or isinstance(error.__cause__, kind):
            return answer
    if problem := problem_of_pickle(error):
        return f"the file with the weights {problem}", "take weights in safetensors, or other ones"
    first = first_line(error).split(". ")[0].rstrip(" :")
    hint = "set model.trust_remote_code: true where you trust it" if "custom code" in first else None
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", first), hint


def problem_of_pickle(error: Exception) -> str | None:
    """What is wrong with a file of which torch reads weights only; torch's own words advise to read it all the same."""
    if not isinstance(error, UnpicklingError):
        return None
    program = "global" in str(error).lower()
    return (
        "holds more than weights (a program), and is not opened" if program else "is damaged, or is no pickle"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bar and reports, whose contents are checked here; the hub still shows downloads."""
    from transformers.utils import logging as messages

    level, bar = messages.get_verbosity(), messages._tqdm_active
    messages.set_verbosity_error()
    messages._tqdm_active = False  # `disable_progress_bar` would take the hub's bars too
    try:
        yield
    finally:
        messages.set_verbosity(level)
        messages._tqdm_active = bar
