"""What is pushed to the hub: models, never a pickle of the arguments, which hold the token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit import checkpoint
from toolkit.errors import ModelError, first_line

ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
STATE = ["optimizer.*", "scheduler.*", "rng_state*", "scaler.*", checkpoint.STATE, checkpoint.RUNNING_LOSS,
         checkpoint.MANIFEST]  # fmt: skip
"""Files of a checkpoint that are of the training, not of the model."""


def create(name: str, train: Mapping[str, Any]) -> str:
    """The id of the repository that a run's model will be pushed to, made unless there is one.

    Args:
        name: of the repository, where `train.hub_model_id` says none.
        train: `hub_model_id`, `hub_token` and `hub_private_repo`; without a token that of `hf auth login`.
    Raises:
        ModelError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    wanted = train.get("hub_model_id") or name
    try:
        made = HfApi(token=train.get("hub_token")).create_repo(
            wanted, private=train.get("hub_private_repo"), exist_ok=True
        )
    except Exception as error:  # of the network, of the hub, of the name
        raise ModelError(
            f"train.push_to_hub: the repository '{wanted}' cannot be had: {first_line(error)}",
            hint="log in with `hf auth login`, or leave train.push_to_hub out",
        ) from error
    return str(made.repo_id)


def push(folder: Path, repository: str, train: Mapping[str, Any]) -> str:
    """Upload a run's model with its card; the address it has there.

    Raises:
        ModelError: the hub cannot be reached, or refuses. The model is where it was.
    """
    from huggingface_hub import HfApi

    try:
        done = HfApi(token=train.get("hub_token")).upload_folder(
            repo_id=repository, folder_path=folder, commit_message="End of training",
            revision=train.get("hub_revision"),
        )  # fmt: skip
    except Exception as error:
        raise ModelError(
            f"the model could not be pushed to '{repository}': {first_line(error)}",
            hint=f"it is complete in {folder}: hf upload {repository} {folder}",
        ) from error
    return str(done.repo_url)


def push_checkpoint(trainer: Any, folder: Path) -> None:
    """Upload a checkpoint's model, and where `hub_strategy` says so the whole checkpoint, while training goes on."""
    from transformers.trainer_utils import HubStrategy
    from transformers.utils import PushInProgress
    from transformers.utils.hub import hf_api

    args, running = trainer.args, trainer.push_in_progress
    is_busy = running is not None and not running.is_done()
    if not trainer.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
        return
    if is_busy and not args.hub_always_push:
        return
    trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
    message = f"Training in progress, step {trainer.state.global_step}"
    common = {"repo_id": trainer.hub_model_id, "folder_path": folder, "token": args.hub_token,
              "revision": args.hub_revision, "run_as_future": True}  # fmt: skip
    jobs = [hf_api().upload_folder(commit_message=message, ignore_patterns=STATE, **common)]
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        place = "last-checkpoint" if args.hub_strategy == HubStrategy.CHECKPOINT else folder.name
        jobs.append(
            hf_api().upload_folder(commit_message=f"{message}, checkpoint", path_in_repo=place, **common)
        )
    if is_busy:
        running.jobs.extend(jobs)
    else:
        trainer.push_in_progress = PushInProgress(jobs)
