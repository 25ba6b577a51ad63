"""Several processes that carry out one run together, as `torchrun` starts them: the first one writes and speaks.

They are told of one another by the environment. What one of them does alone it has to agree on with the others, which
would wait for it else: `first`, `alike` and `highest` are called by all of them, in the same order.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import pickle
import re
from collections.abc import Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")
_END = "toolkit/end"
_LOST = re.compile(r"connection (?:closed|reset) by peer|broken pipe|remote process exited", re.IGNORECASE)
_heard: list[BaseException] = []
_joined = False


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def number() -> int:
    """This process's, from 0."""
    return int(os.environ.get("RANK", 0))


def is_first() -> bool:
    return number() == 0


def first(decide: Callable[[], Answer]) -> Answer:
    """What the first process makes of it, in all of them.

    Raises:
        BaseException: what it meets there.
    """
    if count() == 1:
        return decide()
    answer: Answer = _heard_from_first(_outcome(decide) if is_first() else None)
    return answer


def alike(do: Callable[[], Answer]) -> Answer:
    """What each process makes of it, unless one of them fails: then all do.

    Raises:
        BaseException: what the first that failed has met.
    """
    if count() == 1:
        return do()
    from torch import distributed

    own, error = _outcome(do)
    _join()
    errors: list[Any] = [None] * count()
    distributed.all_gather_object(errors, error)
    failed = next((rank for rank, one in enumerate(errors) if one is not None), None)
    if failed is None:
        return own  # type: ignore[return-value]
    raise _from_rank(failed, errors[failed], error)


def highest(*numbers: int) -> list[int]:
    """Of each number the highest that a process has."""
    if count() == 1:
        return list(numbers)
    import torch
    from accelerate import PartialState
    from torch import distributed

    _join()
    values = torch.tensor(numbers, device=PartialState().device)
    distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return [int(one) for one in values]


def is_told(error: BaseException) -> bool:
    """Whether the first process reports this error too."""
    return not is_first() and (not _joined or any(error is one for one in _heard))


def tell_end(error: BaseException) -> None:
    """Leave word of what ends this process, as the first one will only see that its connection is closed."""
    if _joined and not is_told(error):
        with contextlib.suppress(RuntimeError):  # the first process is gone, and the store with it
            _store().set(_END, f"{type(error).__name__}: {error}")


def told_end() -> str | None:
    """What has ended another process, if one has left word."""
    if not _joined or not _store().check([_END]):
        return None
    return str(_store().get(_END).decode())


def loss_of_another(error: BaseException) -> str | None:
    """That another process is gone, where it is its silence that ends this one; the backend tells only of a socket."""
    found = _LOST.search(str(error)) if count() > 1 else None
    return f"another process of the run was lost ({found[0].lower()})" if found else None


def _store() -> Any:
    """By which the processes have found one another."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


def _outcome(do: Callable[[], Answer]) -> tuple[Answer | None, BaseException | None]:
    try:
        return do(), None
    except BaseException as error:
        return None, _portable(error)


def _portable(error: BaseException) -> BaseException:
    """The error, or one that says the same where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _heard_from_first(outcome: tuple[Any, BaseException | None] | None) -> Any:
    from torch import distributed

    _join()
    box = [outcome]
    distributed.broadcast_object_list(box, src=0)
    assert box[0] is not None
    answer, error = box[0]
    if error is not None:
        raise _from_rank(0, error, outcome[1] if outcome else None)
    return answer


def _from_rank(rank: int, error: BaseException, own: BaseException | None) -> BaseException:
    """An error of a process, to be raised in this one: as it is in that one itself."""
    raised = own if rank == number() and own is not None else error
    if rank != number():
        _heard.append(raised)
    return raised


def _join() -> None:
    """Have the processes know one another, by the backend that suits the device."""
    global _joined
    if _joined:
        return
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.accelerator.is_available())
    atexit.register(_part)
    _joined = True


def _part() -> None:
    """End gloo's threads before the interpreter ends: one that lets go of a tensor later aborts the process.

    They end with the group itself, which a run that is over may still hold in a cycle.
    """
    from torch import distributed

    distributed.destroy_process_group()
    gc.collect()
