"""Make the samples that the tasks ship: a nano model, and a little data that it can be tuned on.

    python scripts/make_samples.py [NAME ...] [--out FOLDER]

Seeds are fixed: a sample made again replaces itself. Needs the extras `all`, `samples` and `test`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

SHELF = Path(__file__).resolve().parent.parent / "tasks" / "toolkit_tasks" / "samples"


def whisper_asr(folder: Path) -> None:
    """Speech of one speaker, and a recogniser that has never heard that speaker."""
    from samples import whisper_asr

    whisper_asr.make(folder)


def causal_lm(folder: Path) -> None:
    """Chats in a manner of speaking, and a language model that knows the answers but not the manner."""
    from samples import causal_lm

    causal_lm.make(folder)


def clip_contrastive(folder: Path) -> None:
    """Pictures of plain shapes with captions, and a CLIP that knows some of the shapes and colours."""
    from samples import clip_contrastive

    clip_contrastive.make(folder)


def new_task(folder: Path) -> None:
    """Images of textures, and a classifier that knows nothing yet: the sample of what `toolkit new` writes."""
    from samples import textures

    textures.make(folder)


MAKERS: dict[str, Callable[[Path], None]] = {
    "whisper-asr": whisper_asr,
    "causal-lm": causal_lm,
    "clip-contrastive": clip_contrastive,
    "new-task": new_task,
}
TEMPLATE = SHELF.parents[2] / "toolkit" / "templates" / "task" / "toolkit_my_task" / "sample"


def main() -> None:
    """Make the samples named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description="make the samples that the tasks ship")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MAKERS)} (default: all)")
    parser.add_argument("--out", type=Path, help="where the folders go (default: where they are shipped)")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MAKERS):
        parser.error(f"no sample named {', '.join(sorted(unknown))} (known: {', '.join(MAKERS)})")
    for name in arguments.names or MAKERS:
        shipped = TEMPLATE if name == "new-task" else SHELF / name.replace("-", "_")
        MAKERS[name](arguments.out / shipped.name if arguments.out else shipped)


if __name__ == "__main__":
    main()
