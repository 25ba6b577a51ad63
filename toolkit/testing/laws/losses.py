"""Laws of the loss, and of the steps that are made of it."""

from __future__ import annotations

from typing import Any

from toolkit.errors import PluginError
from toolkit.testing.subject import DoesNotApply, Subject

_OF_STEPS = (
    "toolkit_loss", "toolkit_step", "toolkit_collator", "toolkit_model", "toolkit_adapt", "toolkit_augment",
    "toolkit_wrap_loss", "toolkit_callbacks",
)  # fmt: skip


def loss_counts_the_targets(subject: Subject) -> None:
    """The loss of a batch is one finite number in nats, and its count is the batch's `num_targets`."""
    subject.asked_for("toolkit_loss", "toolkit_step", "toolkit_evaluate_batch")
    import torch

    from toolkit.testing.training import exact, exact_model, loss_of, scored

    model, batch = exact_model(subject), subject.batch()
    losses = {}
    if subject.has("toolkit_loss"):
        losses["toolkit_loss"] = loss_of(subject, model, batch)
    if subject.has("toolkit_step"):
        step = subject.plugins.step()
        assert step is not None
        losses["toolkit_step"] = step(
            model, exact(subject, batch), lambda part: torch.autograd.backward(part)
        )
    if subject.has("toolkit_evaluate_batch"):
        losses["toolkit_evaluate_batch"] = next(scored(subject, model, [batch])).loss
    for hook, loss in losses.items():
        _check(hook, loss, batch)
    if "toolkit_loss" in losses and not losses["toolkit_loss"].total.requires_grad:
        raise PluginError(
            "toolkit_loss: the total has no gradient",
            hint="do not detach it, and compute it from the model's outputs",
        )


def _check(hook: str, loss: Any, batch: Any) -> None:
    if loss.total.numel() != 1 or not bool(loss.total.isfinite().all()):
        raise PluginError(
            f"{hook}: the total is {loss.total.detach()!r:.80}, not one finite number",
            hint="sum over the batch's targets",
        )
    if int(loss.count) != int(batch["num_targets"]):
        raise PluginError(
            f"{hook}: the loss counts {int(loss.count)} targets, num_targets is {int(batch['num_targets'])}",
            hint='Loss(total, count=batch["num_targets"]), and let the collator count what the loss is summed over',
        )


def loss_adds_up(subject: Subject) -> None:
    """The loss of a batch is the sum over its rows; or the plugin has a step of its own."""
    subject.asked_for("toolkit_loss", "toolkit_collator", "toolkit_model")
    _refuse_own_step(subject)
    import torch

    from toolkit.testing.comparing import relative
    from toolkit.testing.training import exact_model, loss_of

    model = exact_model(subject)
    with torch.no_grad():
        whole = float(loss_of(subject, model, subject.batch()).total)
        parts = [float(loss_of(subject, model, subject.batch([row])).total) for row in subject.raw_rows]
    if (apart := relative(whole, sum(parts))) > subject.tolerance:
        raise PluginError(
            f"the loss of {len(parts)} rows is {whole:.9g} together, {sum(parts):.9g} one by one: {apart:.1e} apart",
            hint="sum over the targets, do not average; keep padding out, by a mask for the model and by labels that "
            "the loss ignores; a loss of rows with one another needs a step of its own, toolkit_step",
        )


def accumulation_changes_nothing(subject: Subject) -> None:
    """Steps of four rows at once and of one row four times change the weights alike."""
    subject.asked_for(*_OF_STEPS)
    _refuse_own_step(subject)
    from toolkit.testing.training import trained

    by_row = trained(subject, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    if apart := list(subject.trained_at_once.differences(by_row, subject.tolerance)):
        raise PluginError(
            f"after two steps of 1 row x 4, not of 4 rows at once: {'; '.join(apart)}",
            hint="num_targets of a batch must be the sum of its rows', without padding: the core divides by it",
        )


def ranks_change_nothing(subject: Subject) -> None:
    """Two processes with two rows each change the weights as one with four, and measure the same."""
    subject.asked_for(*_OF_STEPS, "toolkit_evaluate_batch", "toolkit_metrics")
    from toolkit.testing.ranks import trained_by_ranks

    together = trained_by_ranks(subject, 2, per_device_train_batch_size=2)
    if apart := list(subject.trained_at_once.differences(together, subject.tolerance)):
        raise PluginError(
            f"after two steps of two processes with 2 rows, not of one with 4: {'; '.join(apart)}",
            hint="a toolkit_step of rows with one another has to gather them from all processes, with their gradients",
        )


def _refuse_own_step(subject: Subject) -> None:
    if subject.owns_its_step:
        raise DoesNotApply("a plugin of the recipe has a step of its own, which takes a batch as a whole")
