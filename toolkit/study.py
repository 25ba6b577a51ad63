"""What has been tried, what to try next, and what is not worth going on with. Optuna decides; nothing here is on disk.

Each decision depends on the seed and on the trials before it alone, so that a search that was interrupted goes on as
if it never had been.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from toolkit.errors import RecipeError
from toolkit.space import Choice, Range, Space

DRAWS = 50
"""How often a suggestion that was tried before is drawn again."""
STARTUP = 5
"""How many trials finish before one is ended early."""


@dataclass(frozen=True)
class Trial:
    """One run of a search.

    Attributes:
        values: what it tried, by dotted key.
        score: the metric of the model it saved, on validation; None unless it finished.
        curve: the metric at each evaluation within training, in order; None where it was no number.
        metrics: all metrics of the model it saved, on validation.
        reason: why it failed.
    """

    number: int
    values: Mapping[str, Any]
    status: Literal["running", "finished", "pruned", "failed"] = "running"
    score: float | None = None
    curve: Sequence[float | None] = ()
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def best_of(trials: Sequence[Trial], higher_is_better: bool) -> Trial | None:
    """The finished trial with the best score, the first of several."""
    return next(iter(ranked(trials, higher_is_better)), None)


def ranked(trials: Sequence[Trial], higher_is_better: bool) -> list[Trial]:
    """The finished trials, the best first."""
    finished = [trial for trial in trials if trial.score is not None]
    sign = -1 if higher_is_better else 1
    return sorted(finished, key=lambda trial: (sign * (trial.score or 0.0), trial.number))


def suggest(
    space: Space, trials: Sequence[Trial], seed: int, higher_is_better: bool
) -> dict[str, Any] | None:
    """Values for the next trial, new ones as long as there are any; None when all have been tried.

    Source: Bergstra et al. 2011, Algorithms for hyper-parameter optimization (TPE).
    """
    tried = {_key(trial.values) for trial in trials}
    for draw in range(DRAWS):
        values = _drawn(space, trials, _seed(seed, len(trials), draw), higher_is_better)
        if _key(values) not in tried:
            return values
    return next((values for values in _all(space) if _key(values) not in tried), None)


def is_hopeless(trials: Sequence[Trial], curve: Sequence[float | None], higher_is_better: bool) -> bool:
    """Whether the best of `curve` is worse than the median of the finished trials at the same evaluation.

    Never before five trials have finished, and not at the last evaluation, when there is nothing to save any more.

    Source: Golovin et al. 2017, Google Vizier, section 3.2.2 (median stopping rule).
    """
    finished = [trial for trial in trials if trial.status == "finished"]
    if len(finished) < STARTUP or len(curve) >= max(len(trial.curve) for trial in finished):
        return False
    if all(value is None for value in curve):
        return bool(curve)
    optuna = load_optuna()
    with _quiet():
        study = as_optuna(trials, None, higher_is_better)
        running = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING, intermediate_values=_numbered(curve)
        )
        return bool(optuna.pruners.MedianPruner(n_startup_trials=STARTUP).prune(study, running))


def as_optuna(trials: Sequence[Trial], space: Space | None, higher_is_better: bool, seed: int = 0) -> Any:
    """A study of Optuna's that holds the trials, in memory; without a space they have no parameters.

    A failed trial counts as one that was pruned at once, so that its surroundings are avoided.
    """
    optuna = load_optuna()
    study = optuna.create_study(
        direction="maximize" if higher_is_better else "minimize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.NopPruner(),
    )
    states = optuna.trial.TrialState
    distributions = {key: _distribution(where) for key, where in (space or {}).items()}
    for trial in trials:
        is_finished = trial.status == "finished"
        made = optuna.trial.create_trial(
            state=states.COMPLETE if is_finished else states.PRUNED,
            value=trial.score,
            params={key: _stored(where, trial.values[key]) for key, where in (space or {}).items()},
            distributions=distributions,
            intermediate_values={} if trial.status == "failed" else _numbered(trial.curve),
        )
        study.add_trial(made)
    return study


def load_optuna() -> Any:
    """Optuna, which is an extra.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise RecipeError("a search needs optuna", hint="pip install optuna") from None
    return optuna


# ---- Optuna's view of it -----------------------------------------------------------------------------------


def _drawn(space: Space, trials: Sequence[Trial], seed: int, higher_is_better: bool) -> dict[str, Any]:
    with _quiet():
        study = as_optuna(trials, space, higher_is_better, seed)
        asked = study.ask({key: _distribution(where) for key, where in space.items()})
    return {key: _value(where, asked.params[key]) for key, where in space.items()}


def _distribution(where: Range | Choice) -> Any:
    distributions = load_optuna().distributions
    if isinstance(where, Choice):
        return distributions.CategoricalDistribution([json.dumps(value) for value in where.values])
    kind = distributions.IntDistribution if where.whole else distributions.FloatDistribution
    return kind(where.low, where.high, log=where.log)


def _stored(where: Range | Choice, value: Any) -> Any:
    return json.dumps(value) if isinstance(where, Choice) else value


def _value(where: Range | Choice, drawn: Any) -> Any:
    return json.loads(drawn) if isinstance(where, Choice) else where.rounded(drawn)


def _numbered(curve: Sequence[float | None]) -> dict[int, float]:
    return {place: math.nan if value is None else value for place, value in enumerate(curve, 1)}


def _all(space: Space) -> Iterator[dict[str, Any]]:
    """Every combination there is; none where there is no end of them."""
    sides = [where.all for where in space.values()]
    if any(side is None for side in sides):
        return
    for values in itertools.product(*(side for side in sides if side is not None)):
        yield dict(zip(space, values, strict=True))


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _seed(seed: int, trial: int, draw: int) -> int:
    return random.Random(f"search {seed} {trial} {draw}").getrandbits(32)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from telling of each study that is made in memory."""
    logging = load_optuna().logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)
