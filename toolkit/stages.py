"""Frozen stages: a part of the model in which nothing trains is computed once for each input, and reused.

    trainer → model → stage(inputs)     rows that are known: their outputs are read
                                        the others: the stage is computed for them alone, and they are kept

A row is known by its content: whatever changes an input, such as an augmentation, makes it another row. The stage is
known by its weights, its configuration and the libraries. The plugin's code does not notice.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.cache import GB, TensorStore
from toolkit.calls import MORE, Call, Shape, as_bytes, nearly_same, same
from toolkit.environment import package_version
from toolkit.inside import in_place_of_forward
from toolkit.linear import is_swifter
from toolkit.notices import say, say_once
from toolkit.types import Stage

_BATCH_DEPENDENT = ("Linear8bitLt", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d")


@contextlib.contextmanager
def reused(
    stages: Sequence[Stage],
    root: Path,
    max_gb: float,
    rows: int,
    varying: Sequence[str] = (),
    stopping: Callable[[], bool] = lambda: False,
    model: str = "",
) -> Iterator[list[FrozenStage]]:
    """Meanwhile the outputs of those stages in which nothing trains are kept, and reused.

    Args:
        root: the cache's folder.
        rows: how many inputs there will be, for a forecast.
        varying: names of stages whose inputs in training are others each time, and not worth keeping.
        stopping: whether the run is to end, so that nothing is waited for.
        model: what the cache's listing calls the model where a stage does not say.
    """
    with contextlib.ExitStack() as stack:
        attached = [
            stack.enter_context(
                FrozenStage(stage, root, max_gb, rows, stage.name in varying, stopping, model).attached()
            )
            for stage in stages
            if reusable(stage)
        ]
        for one in attached:  # now that each of them is known to be in use
            one.store.shrink()
        yield attached


def varying(
    stages: Sequence[Stage], forward: Callable[[Any], Any], alike: Sequence[Sequence[Any]]
) -> list[str]:
    """The names of stages that do not get the same input from the same row.

    Args:
        forward: has the model compute a batch.
        alike: a few rows, of each the batches that different epochs make of it.
    """

    def varies(stage: Stage) -> bool:
        return any(len({_first_input(stage, forward, batch) for batch in batches}) > 1 for batches in alike)

    return [stage.name for stage in stages if reusable(stage) and varies(stage)]


class _Seen(Exception):  # noqa: N818
    """Ends a forward as soon as a stage was called."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)


def _first_input(stage: Stage, forward: Callable[[Any], Any], batch: Any) -> tuple[str, ...]:
    """What the stage is first called with; nothing where it is not called, or not with rows."""
    module: Any = stage.module
    signature = inspect.signature(module.forward)

    def seen(*args: Any, **kwargs: Any) -> Any:
        call = Call.of(signature, args, kwargs)
        raise _Seen(call.keys() if call is not None else ())

    try:
        with in_place_of_forward(module, seen), torch.no_grad():
            forward(batch)
    except _Seen as found:
        return found.keys
    return ()


def reusable(stage: Stage) -> bool:
    """Whether nothing in the stage trains, and each row's output is its own."""
    weights = [*stage.module.parameters()]
    if not weights or any(one.requires_grad for one in weights):
        return False
    return not any(
        isinstance(one, nn.modules.batchnorm._BatchNorm) or type(one).__name__ in _BATCH_DEPENDENT
        for one in stage.module.modules()
    )


class FrozenStage:
    """One stage and its store."""

    def __init__(
        self,
        stage: Stage,
        root: Path,
        max_gb: float,
        rows: int,
        varies: bool,
        stopping: Callable[[], bool],
        model: str,
    ) -> None:
        self.model = model
        self.stage, self.rows, self.varies, self.stopping = stage, rows, varies, stopping
        self.root, self.most_bytes = root, max_gb * GB
        self.compute: Callable[..., Any] = stage.module.forward
        self.signature = inspect.signature(self.compute)
        self.shapes: dict[str, Shape] = {}
        self.steady: bool | None = False if _has_dropout(stage.module) else None
        self.indifferent: dict[str, bool] = {}
        """By the kind of call, whether a row's output is the same to the last bit without the others."""
        self.read = self.computed = 0
        self._know()

    def _know(self) -> None:
        """Take the stage as it is now for what the store is of."""
        self.looks = _looks(self.stage.module)
        self.state = _state(self.stage.module, self.looks)
        self.store = TensorStore(
            self.root, stage_key(self.stage), _facts(self.stage, self.model), self.most_bytes
        )
        self.checked = not self.store.folder.is_dir()  # nothing is there to look at

    @contextlib.contextmanager
    def attached(self) -> Iterator[FrozenStage]:
        self.store.open()
        try:
            with in_place_of_forward(self.stage.module, self):
                yield self
        finally:
            self.store.close()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = Call.of(self.signature, args, kwargs)
        if call is None or self._gives_more(call) or not self._is_frozen() or not self._may_be_reused(call):
            return self.compute(*args, **kwargs)
        keys = call.keys()
        found = [self.store.read(key) for key in keys]
        if not self._complete(call, keys, found):
            return self.compute(*args, **kwargs)
        return self.shapes[call.form].put_together(found, call.device)

    def _gives_more(self, call: Call) -> bool:
        """Whether outputs are asked for that are not kept, or in another form."""
        config = getattr(self.stage.module, "config", None)
        more = any(call.plain.get(name, getattr(config, name, False)) for name in MORE)
        return more or call.plain.get("return_dict") is False

    def _is_frozen(self) -> bool:
        """Whether nothing in the stage trains; what it has become meanwhile is kept apart from what it was."""
        if any(one.requires_grad for one in self.stage.module.parameters()):
            say_once(f"cache: the {self.stage.name} trains now, and is computed each time")
            return False
        if _state(self.stage.module, self.looks) != self.state:
            self.store.close()
            self._know()
            self.store.open()
        return True

    def _complete(self, call: Call, keys: Sequence[str], found: list[dict[str, Tensor] | None]) -> bool:
        """Add the rows that were not there; those that another process is at work on are waited for.

        Returns:
            Whether the outputs are rows.
        """
        missing = [place for place, one in enumerate(found) if one is None]
        self.read += len(keys) - len(missing)
        with self.store.claimed([keys[place] for place in missing]) as mine:
            ours = [place for place in missing if keys[place] in mine]
            for place in ours:
                found[place] = self.store.read(keys[place])  # another may have been quicker
            ours = [place for place in ours if found[place] is None]
            if not self._compute(call, keys, found, ours):
                return False
        others = [place for place in missing if found[place] is None]
        awaited = self.store.awaited([keys[place] for place in others], self.stopping)
        for place in others:
            found[place] = awaited.get(keys[place])
        left = [place for place in others if found[place] is None]
        if not self._compute(call, keys, found, left):
            return False
        read = [place for place in range(call.count) if place not in (*ours, *left)]
        known = self.checked and call.form in self.shapes
        return known or not read or self._check(call, keys, found, read[0])

    def _check(
        self, call: Call, keys: Sequence[str], found: list[dict[str, Tensor] | None], place: int
    ) -> bool:
        """See, once, that what is kept is what is computed, but for rounding; where it is not, all of it goes."""
        rows = self._rows(call, [place])
        if rows is None:
            return False
        self.checked = True
        if nearly_same(found[place], rows[0]):
            return True
        say(
            f"cache: the {self.stage.name} does not compute what was kept of it; that is removed, and made anew"
        )
        self.store.forget()
        return self._compute(call, keys, found, list(range(call.count)))

    def _compute(
        self, call: Call, keys: Sequence[str], found: list[dict[str, Tensor] | None], places: list[int]
    ) -> bool:
        """Compute and keep some rows; whether the outputs are rows."""
        if not places:
            return True
        rows = self._without_others(call, places)
        if rows is None:
            return False
        for place, row in zip(places, rows, strict=True):
            self.store.write(keys[place], row)
            found[place] = row
        self.computed += len(places)
        return True

    def _without_others(self, call: Call, places: list[int]) -> list[dict[str, Tensor]] | None:
        """The outputs of some rows; the others are computed too where that makes a difference to the last bit.

        Small products are summed in an order of their own, so it may; for calls of one kind it is tried once.
        """
        if len(places) == call.count or self.indifferent.get(call.kind):
            return self._rows(call, places)
        rows = self._rows(call, list(range(call.count)))
        if rows is not None and call.kind not in self.indifferent:
            alone = self._rows(call, [0])
            self.indifferent[call.kind] = alone is not None and same(alone[0], rows[0])
        return rows and [rows[place] for place in places]

    def _may_be_reused(self, call: Call) -> bool:
        if not self.stage.module.training:
            return True
        if self.varies:
            name = self.stage.name
            say_once(f"cache: rows are augmented, so the {name} is computed at each step of training")
            return False
        if self.steady is None:
            self.steady = self._is_steady(call)
        if not self.steady:
            say_once(
                f"cache: in training the {self.stage.name} gives other values than in evaluation, by dropout or the "
                "like, and is computed at each step"
            )
        return self.steady

    @torch.no_grad()
    def _is_steady(self, call: Call) -> bool:
        """Whether a row's output in training is that of evaluation, to the last bit."""
        module, arguments = self.stage.module, call.of_rows([0])
        with torch.random.fork_rng():
            training = self.compute(**arguments)
            module.eval()
            try:
                evaluating = self.compute(**arguments)
            finally:
                module.train()
        one, other = Shape.of(training, 1, self.stage.outputs), Shape.of(evaluating, 1, self.stage.outputs)
        if one is None or other is None:
            return False
        return same(one.rows(training)[0], other.rows(evaluating)[0])

    def _rows(self, call: Call, places: list[int]) -> list[dict[str, Tensor]] | None:
        """The outputs of some rows, computed without the others, or None where they are not one for each row."""
        with torch.no_grad():
            output = self.compute(**call.of_rows(places))
        shape = Shape.of(output, len(places), self.stage.outputs)
        if shape is None:
            return None
        rows = shape.rows(output)
        if not self.shapes:
            self._forecast(sum(one.nbytes for one in rows[0].values()))
        self.shapes[call.form] = shape
        return rows

    def _forecast(self, size: int) -> None:
        rows = self.store.count()
        there = f", {rows} rows of it there already" if rows else ""
        say(
            f"cache: the {self.stage.name} does not train; outputs for {self.rows} rows like the first take "
            f"{self.rows * size / GB:.2g} GB in {self.store.folder}{there}"
        )


# ---- what a stage is known by --------------------------------------------------------------------------------


def stage_key(stage: Stage) -> str:
    """A digest of the weights, the configuration, all else that is set, what is kept, the device and the libraries."""
    digest = hashlib.sha256()
    module: Any = stage.module
    config: Any = getattr(module, "config", None)
    device = next(module.parameters()).device.type
    about = [
        f"{type(module).__module__}.{type(module).__qualname__}",
        stage.outputs,
        config.to_json_string(use_diff=False) if hasattr(config, "to_json_string") else "",
        getattr(config, "_attn_implementation", None),
        [_set(one) for one in module.modules()],
        _adapters(module),
        device,
        device == "cpu" and is_swifter(),
        [package_version(name) for name in _LIBRARIES],
    ]
    digest.update(repr(about).encode())
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(as_bytes(tensor))
    return digest.hexdigest()[:32]


_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "task-toolkit")
_NO_MATTER = ("training", "gradient_checkpointing")


def _set(module: nn.Module) -> dict[str, Any]:
    """What a module's own attributes say that are plain values."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and not name.startswith("_") and name not in _NO_MATTER
    }


def _adapters(module: nn.Module) -> list[Any]:
    """What a forward does with the adapters of PEFT in it: which are on, and how much they weigh."""
    return [
        (one.disable_adapters, one.active_adapters, one.merged_adapters, repr(getattr(one, "scaling", None)))
        for one in module.modules()
        if hasattr(one, "disable_adapters") and hasattr(one, "merged_adapters")
    ]


def _state(module: nn.Module, looks: list[list[list[Tensor]]]) -> tuple[Any, ...]:
    """Tells whether weights have changed since: what is changed through `.data` keeps its version."""
    tensors = [*module.parameters(), *module.buffers()]
    versions = [0 if one.is_inference() else one._version for one in tensors]
    seen = [torch.cat([torch.cat(alike).view(torch.uint8) for alike in kinds]) for kinds in looks]
    values = [as_bytes(one).tobytes() for one in seen]
    return (*versions, *(one.data_ptr() for one in tensors), *values, repr(_adapters(module)))


_LOOKED_AT = 16
"""Values of a tensor; who averages or scales weights changes all of them."""


def _looks(module: nn.Module) -> list[list[list[Tensor]]]:
    """Views of a few values of each tensor, by device and by type, so that few operations and transfers read them."""
    looks: dict[torch.device, dict[torch.dtype, list[Tensor]]] = {}
    for one in [*module.parameters(), *module.buffers()]:
        if one.numel():
            looks.setdefault(one.device, {}).setdefault(one.dtype, []).append(_few(one.detach()))
    return [list(kinds.values()) for kinds in looks.values()]


def _few(tensor: Tensor) -> Tensor:
    """A view of values from the first to the last, evenly spread over its memory."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    step = max(1, last // (_LOOKED_AT - 1))
    return tensor.as_strided((min(_LOOKED_AT, last + 1),), (step,))


def _facts(stage: Stage, model: str) -> dict[str, Any]:
    own = getattr(getattr(stage.module, "config", None), "name_or_path", "")
    return {"stage": stage.name, "class": type(stage.module).__name__, "model": str(own or model)}


def _has_dropout(module: nn.Module) -> bool:
    """Whether anything of it says that it drops values, layers or paths."""
    config = getattr(module, "config", None)
    said = [value for name, value in vars(config).items() if "drop" in name] if config is not None else []
    layers = [
        getattr(one, "p", 0) for one in module.modules() if isinstance(one, nn.modules.dropout._DropoutNd)
    ]
    return any(isinstance(one, int | float) and one > 0 for one in [*said, *layers])
