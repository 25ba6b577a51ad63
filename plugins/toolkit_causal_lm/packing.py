"""Rows laid behind one another in one sequence, and whether a model keeps them apart there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from toolkit import ModelError, unwrapped


def packed(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which rows go into which sequence: the longest first, each where it leaves the least room.

        >>> packed([3, 6, 5, 2], room=8)
        [[1, 3], [2, 0]]

    Source: best-fit decreasing; Johnson 1973.
    """
    sequences: list[list[int]] = []
    free: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        fitting = [number for number, left in enumerate(free) if left >= lengths[place]]
        if fitting:
            number = min(fitting, key=free.__getitem__)
            sequences[number].append(place)
            free[number] -= lengths[place]
        else:
            sequences.append([place])
            free.append(room - lengths[place])
    return sequences


def evened(lengths: Sequence[int], room: int) -> list[list[int]]:
    """As `packed`, in no more sequences, but these as short as they can be.

        >>> packed([8, 2, 2, 2], room=12), evened([8, 2, 2, 2], room=12)
        ([[0, 1, 2], [3]], [[0], [1, 2, 3]])

    Sequences of a batch are as wide as the widest, so what one has more than the others is padding in them.
    """
    best = packed(lengths, room)
    least = max(*lengths, -(-sum(lengths) // len(best)))
    while least < room:
        middle = (least + room) // 2
        found = packed(lengths, middle)
        if len(found) <= len(best):
            best, room = found, middle
        else:
            least = middle + 1
    return best


def keeps_apart(model: Any) -> bool:
    """Whether rows of the model can be packed."""
    try:
        check_keeps_apart(model)
    except ModelError:
        return False
    return True


@torch.no_grad()
def check_keeps_apart(model: Any) -> None:
    """See that a row's logits are the same behind another row as alone, by trying it with a few tokens.

    Models go about it in their own ways: one looks at the positions, which start anew with each row, another at the
    mask, and one with a state cannot forget. So the model itself is asked.

    Raises:
        ModelError: they are not, or it takes no positions.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    behind = torch.randint(vocabulary, (12,), generator=generator)
    alone = behind.roll(5)  # the same five last tokens come first
    ids = torch.stack([behind, alone]).to(model.device)
    positions = torch.tensor([[*range(7), *range(5)], [*range(12)]], device=model.device)
    trains = model.training
    model.eval()
    try:
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"causal-lm.packing: {_name(model)} cannot be packed: {error}", _HINT) from error
    finally:
        model.train(trains)
    low_precision = getattr(model, "is_quantized", False)
    precision = torch.finfo(torch.bfloat16 if low_precision else logits.dtype).eps
    one, other = logits[0, 7:], logits[1, :5]  # (5, vocabulary); what follows a row changes nothing of it
    difference = float((one - other).abs().max() / other.abs().max())
    if not difference <= precision**0.5:
        raise ModelError(
            f"causal-lm.packing: {_name(model)} does not keep rows of one sequence apart: the logits of a row behind "
            f"another are {difference:.2g} off",
            _HINT,
        )


def _name(model: Any) -> str:
    return type(unwrapped(model)).__name__


_HINT = "set causal-lm.packing to false; train.train_sampling_strategy: group_by_length saves padding too"
