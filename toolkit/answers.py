"""What plugins give, looked at where it comes in: another thing than was asked for is an error that names the hook."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, TypeVar, cast

from toolkit.errors import PluginError
from toolkit.types import Batch, Loss, Scored

T = TypeVar("T")
NUMBER = (Real,)


def expected(answer: Any, kind: type[T] | tuple[type[Any], ...], hook: str, what: str) -> T:
    """The answer itself, where it is of a kind.

    Raises:
        PluginError: it is not.
    """
    require(isinstance(answer, kind), answer, hook, what)
    return cast(T, answer)


def require(is_right: bool, answer: Any, hook: str, what: str) -> None:
    """Raise `PluginError` unless an answer is what was asked for."""
    if not is_right:
        raise PluginError(
            f"{hook}: expected {what}, found {type(answer).__name__}",
            hint="see the hook's example in toolkit/hookspecs.py",
        )


def expected_row(answer: Any, hook: str) -> Mapping[str, Any]:
    return expected(answer, Mapping, hook, "a row, a mapping")


def expected_batch(answer: Any, measured: bool = False) -> Batch:
    """A collator's batch, which has what the core reads in it, in an evaluation the rows' numbers too."""
    batch: Mapping[str, Any] = expected(answer, Mapping, "toolkit_collator", "a batch, a mapping")
    for name in ("num_targets", "row_id") if measured else ("num_targets",):
        if name not in batch:
            raise PluginError(
                f"toolkit_collator: the batch lacks '{name}' (it has: {', '.join(map(str, batch)) or 'nothing'})",
                hint="num_targets: how many targets the loss is summed over; row_id: (B,), int64, of the rows",
            )
    expected_number(batch["num_targets"], "toolkit_collator", "num_targets, a whole number")
    if measured:
        row_id = batch["row_id"]
        require(hasattr(row_id, "__len__"), row_id, "toolkit_collator", "row_id, one of each row")
    return dict(batch)


def expected_number(answer: Any, hook: str, what: str) -> Any:
    """A number, or a tensor that holds one."""
    is_one = isinstance(answer, Real) or getattr(answer, "numel", lambda: 0)() == 1
    require(is_one, answer, hook, what)
    return answer


def expected_loss(answer: Any, hook: str) -> Loss:
    loss = expected(answer, Loss, hook, "a toolkit.Loss")
    whole = expected_number(loss.total, hook, "Loss.total, a tensor with one number")
    require(hasattr(whole, "detach"), whole, hook, "Loss.total, a tensor with one number")
    expected_number(loss.count, hook, "Loss.count, a whole number")
    report: Mapping[str, Any] = expected(loss.report, Mapping, hook, "Loss.report, a mapping")
    for name, value in report.items():
        expected_number(value, hook, f"a number of Loss.report['{name}']")
    return loss


def expected_scored(answer: Any) -> Scored:
    scored = expected(answer, Scored, "toolkit_evaluate_batch", "a toolkit.Scored")
    expected_loss(scored.loss, "toolkit_evaluate_batch")
    expected_batch(scored.batch, measured=True)
    for one in (scored.predictions, scored.references):
        what = "a list of predictions, and one of references"
        require(hasattr(one, "__len__"), one, "toolkit_evaluate_batch", what)
    return scored


def expected_facts(answer: Any) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = expected(answer, Mapping, "toolkit_inspect", "facts, a mapping")
    for name, value in facts.items():
        expected(value, (*NUMBER, str), "toolkit_inspect", f"a number or a text of '{name}'")
    return facts


def expected_values(answer: Any) -> Mapping[str, Any]:
    values: Mapping[str, Any] = expected(answer, Mapping, "toolkit_metrics", "numbers by name, of compute()")
    for name, value in values.items():
        expected(name, str, "toolkit_metrics", "a text as the name of a value")
        expected_number(value, "toolkit_metrics", f"a number of '{name}'")
    return values
