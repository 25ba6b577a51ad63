"""The same steps in several processes that talk to one another by gloo."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import PluginError

if TYPE_CHECKING:
    from toolkit.testing.subject import Subject
    from toolkit.testing.training import Trained

SECONDS = 300
"""After which processes that wait for one another are given up."""


def trained_by_ranks(subject: Subject, ranks: int, **train: Any) -> Trained:
    """As `toolkit.testing.training.trained`, the rows of a step shared out to `ranks` processes."""
    import torch

    from toolkit.testing.training import Trained

    folder = subject.folder / f"{ranks}-ranks"
    folder.mkdir()
    subject.recipe.dump(folder / "recipe.yaml")
    context = _context()
    port = _free_port()
    processes = [
        context.Process(target=_rank, args=(subject.called, folder, rank, ranks, port, train))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    if not _all_end_well(processes):
        said = "\n".join(path.read_text() for path in sorted(folder.glob("*.txt")))
        raise PluginError(
            f"{ranks} processes cannot train together\n{said or 'they wait for one another'}",
            hint="each of them has to make as many forwards as the others",
        )
    return Trained(**torch.load(folder / "trained.pt"))


def _all_end_well(processes: Sequence[Any]) -> bool:
    """Wait for them; where one fails the others, which would wait for it, are ended."""
    deadline = time.monotonic() + SECONDS
    while any(one.is_alive() for one in processes) and not any(one.exitcode for one in processes):
        left = deadline - time.monotonic()
        if not wait([one.sentinel for one in processes if one.is_alive()], max(left, 0)):
            break
    for one in processes:
        one.terminate()
        one.join()
    return all(one.exitcode == 0 for one in processes)


def _context() -> Any:
    """Processes that begin with the toolkit imported, where the system can."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toolkit.execution"])
    return context


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _rank(called: str, folder: Path, rank: int, ranks: int, port: int, train: dict[str, Any]) -> None:
    """One process."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    import gc
    import traceback

    import torch

    from toolkit.testing.subject import Subject
    from toolkit.testing.training import trained

    torch.set_num_threads(1)
    gc.freeze()  # to look through all that was inherited would copy it
    own = folder / f"rank-{rank}"
    own.mkdir()
    with (own / "said.log").open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    try:
        subject = Subject(called, folder / "recipe.yaml", own)
        found = trained(subject, **train)
    except BaseException as error:
        (folder / f"rank-{rank}.txt").write_text("".join(traceback.format_exception(error)[-3:]))
        raise SystemExit(1) from error
    if rank == 0:
        torch.save({"changes": found.changes, "metrics": found.metrics}, folder / "trained.pt")
