"""Measure ours and the peers' side by side, and print a table of times, ratios, quality and peak memory.

python -m benchmarks                       small: bundled samples, offline, minutes
python -m benchmarks --size full           real models and data, from the hub or where the options say
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import MODULES
from benchmarks.frame import Setting, Workload
from benchmarks.report import document, show
from benchmarks.rounds import ROOT, Plan, Result, carry_out, read, run_side

SAMPLES = ROOT / "tasks" / "toolkit_tasks" / "samples"
SAMPLE_OF = {
    "whisper": "whisper_asr/model", "llama": "causal_lm/model", "clip": "clip_contrastive/model",
    "speech": "whisper_asr/data", "chats": "causal_lm/data", "images": "clip_contrastive/data",
}  # fmt: skip
HUB = {
    "whisper": "openai/whisper-tiny.en",
    "llama": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "clip": "openai/clip-vit-base-patch32",
    "speech": "hf-internal-testing/librispeech_asr_dummy",
    "chats": "HuggingFaceH4/no_robots",
    "images": "lambda/naruto-blip-captions",
}
MODELS, DATASETS = ("whisper", "llama", "clip"), ("speech", "chats", "images")
ROUNDS = {"small": 1, "full": 3}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a side failed, 2 if a name is unknown."""
    options = _parser().parse_args(argv)
    modules = options.module or MODULES
    workloads = [workload for name in modules for workload in importlib.import_module(name).WORKLOADS]
    if options.list:
        for workload in workloads:
            sides = ", ".join(side.name for side in workload.sides)
            print(f"{workload.name}: {workload.summary}\n    {sides} ({' and '.join(workload.sizes)})")
        return 0
    setting = read(options.setting) if options.setting else _setting(options)
    if options.side:
        return _one(options.side, workloads, setting, options.json)
    if unknown := set(options.only or ()) - {workload.name for workload in workloads}:
        print(
            f"error: no workload named {', '.join(sorted(unknown))}; --list tells which there are",
            file=sys.stderr,
        )
        return 2
    plan = Plan(setting, options.rounds or ROUNDS[setting.size], modules)
    results = _all([one for one in workloads if one.name in (options.only or [one.name])], plan)
    if options.json:
        Path(options.json).write_text(json.dumps(document(results, plan), indent=2) + "\n")
    return 1 if any(result.failed for result in results) else 0


def _all(workloads: list[Workload], plan: Plan) -> list[Result]:
    console = Console(width=None if sys.stdout.isatty() else 140)
    results = []
    for workload in workloads:
        if plan.setting.size in workload.sizes:
            results.append(carry_out(workload, plan, lambda line: print(line, file=sys.stderr)))
            show(results[-1], plan.setting, console)
    return results


def _one(address: str, workloads: list[Workload], setting: Setting, target: str | None) -> int:
    name, _, side = address.partition(":")
    workload = next(one for one in workloads if one.name == name)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as place:
        if setting.folder == Path():
            setting = _alone(workload, setting, Path(place))
        measured = run_side(workload, side, setting)
    found = dataclasses.asdict(measured) if measured is not None else None
    if target:
        Path(target).write_text(json.dumps(found))
    else:
        print(json.dumps(found, indent=2))
    return 0


def _alone(workload: Workload, setting: Setting, place: Path) -> Setting:
    """Folders of its own, and what the workload prepares."""
    folder, shared = place / "folder", place / "shared"
    folder.mkdir()
    shared.mkdir()
    setting = dataclasses.replace(setting, folder=folder, shared=shared)
    if workload.prepare is not None:
        workload.prepare(setting)
    return setting


def _setting(options: argparse.Namespace) -> Setting:
    usual = (
        HUB if options.size == "full" else {kind: str(SAMPLES / sample) for kind, sample in SAMPLE_OF.items()}
    )
    named = {kind: _absolute(getattr(options, kind) or usual[kind]) for kind in HUB}
    return Setting(
        size=options.size,
        models={kind: named[kind] for kind in MODELS},
        datasets={kind: named[kind] for kind in DATASETS},
        folder=Path(),
        shared=Path(),
        threads=options.threads,
        seed=options.seed,
    )


def _absolute(name: str) -> str:
    return str(Path(name).absolute()) if Path(name).exists() else name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these workloads")
    parser.add_argument("--rounds", type=int, metavar="N", help="1 when small, else 3")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each process; default 1")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--json", metavar="FILE", help="write every round, versions and the machine")
    parser.add_argument("--list", action="store_true", help="tell which workloads there are")
    for kind in HUB:
        what = "model" if kind in MODELS else "data"
        parser.add_argument(
            f"--{kind}", metavar=what.upper(), help=f"at full size {HUB[kind]}; a name or a folder"
        )
    parser.add_argument("--side", metavar="WORKLOAD:SIDE", help="run this side alone, in this process")
    parser.add_argument(
        "--module", action="append", metavar="NAME", help="where workloads are, instead of ours"
    )
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # as of `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
