"""The command `toolkit`: one module a subcommand, each importing what it needs only when it runs."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from toolkit import ranks
from toolkit.cli.console import print_document, print_faults
from toolkit.discovery import place_in_plugin
from toolkit.errors import Interrupted, RecipeError, ToolkitError, did_you_mean
from toolkit.notices import finite, libraries_without_credentials, printable, say, tell
from toolkit.trace import trace_hooks

COMMANDS = {
    "run": "carry out a task or a recipe file",
    "resume": "go on with a run or a search that was stopped",
    "search": "try values of a recipe's settings, and keep the best",
    "check": "find what is wrong with a recipe, its data and its model before it runs",
    "eval": "measure a run's model",
    "predict": "use a run's model",
    "export": "write a run's model to a folder of its own, merged if need be",
    "tasks": "list the installed tasks",
    "plugins": "list the installed plugins",
    "new": "write a package of your own: a plugin, a task, tests",
    "cache": "list or clear what is kept between runs",
    "doctor": "show what is installed and whether it works",
}


class _Parser(argparse.ArgumentParser):
    """argparse, whose complaints are ours: an error and a hint, no usage dump."""

    def error(self, message: str) -> NoReturn:
        hint = f"`{self.prog} --help` shows the options"
        if message.startswith("unrecognized") and "--set KEY=VALUE" in self.format_usage():
            hint += "; settings are given so, without spaces: --set train.learning_rate=1e-4"
        raise RecipeError(message, hint=hint)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 wrong input, 128 + n after signal n, 1 anything else."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug, as_json = "--debug" in arguments, "--json" in arguments
    try:
        with _ended_in_words():
            return _execute(arguments)
    except ToolkitError as error:
        _report(error, as_json)
        return _after_traceback(debug, error.exit_status)
    except Interrupted as interruption:
        if as_json and ranks.is_first():
            print_document({"status": "interrupted", "folder": interruption.folder})
        folder = interruption.folder
        what_now = f"go on with: toolkit resume {folder}" if folder else "nothing was begun"
        say(f"interrupted by {interruption}; {what_now}")
        return _after_traceback(debug, interruption.exit_status)
    except KeyboardInterrupt:
        if as_json and ranks.is_first():
            print_document({"status": "interrupted", "folder": None})
        say("stopped")
        return _after_traceback(debug, 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        where = place_in_plugin(error)
        what = ranks.loss_of_another(error) or f"{type(error).__name__}: {error}"
        message = what + (f"\n  {where}" if where else "")
        if ranks.is_told(error):
            return 1
        _report(ToolkitError(message, hint="--debug shows where it happened"), as_json)
        return _after_traceback(debug, 1)


@contextlib.contextmanager
def _ended_in_words() -> Iterator[None]:
    """Meanwhile SIGINT and SIGTERM end a command in words, and SIGUSR1 nothing; what trains listens for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, end),
        signal.SIGTERM: signal.signal(signal.SIGTERM, end),
        signal.SIGUSR1: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(error: ToolkitError, as_json: bool) -> None:
    if ranks.is_told(error):
        return
    if as_json:
        print_document(_as_document(error))
    print_faults(error)


def _as_document(error: ToolkitError) -> dict[str, Any]:
    return {"errors": [{"message": one.message, "hint": one.hint} for one in error.all]}


def _after_traceback(debug: bool, status: int) -> int:
    if debug:
        tell(printable(traceback.format_exc()))
    return status


def _execute(arguments: list[str]) -> int:
    command = next((one for one in arguments if not one.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        raise RecipeError(
            f"there is no command '{command}'",
            hint=did_you_mean(command, COMMANDS) or f"one of: {', '.join(COMMANDS)}",
        )
    if command is None:
        _overview().parse_args(arguments)
        _overview().print_help()
        return 0
    module = importlib.import_module(f"toolkit.cli.{command}_command")
    parser = _Parser(
        prog=f"toolkit {command}", description=module.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    module.add_arguments(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document, everything else on stderr"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    place = arguments.index(command)
    return _carry_out(module, parser.parse_args(arguments[:place] + arguments[place + 1 :]))


def _carry_out(module: Any, options: argparse.Namespace) -> int:
    """Run a command; what libraries print meanwhile goes to stderr, the command's own result to stdout."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it reports each kernel it does without
    tracing = trace_hooks(getattr(options, "trace_hooks", False))
    with contextlib.redirect_stdout(sys.stderr), libraries_without_credentials(), tracing:
        document, status = module.execute(options)
    document = finite(document)
    if not ranks.is_first():
        return int(status)
    if options.json:
        print_document(document)
    else:
        module.show(document)
    sys.stdout.flush()
    return int(status)


def _overview() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    parser = _Parser(
        prog="toolkit",
        usage="toolkit COMMAND [options]",
        description="Fine-tune transformers of any modality with one command, one recipe and one trainer.",
        epilog=f"commands:\n{listing}\n\n`toolkit COMMAND --help` shows a command's options.",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    return parser


def _version() -> str:
    from importlib.metadata import version

    return f"task-toolkit {version('task-toolkit')}"
