"""How sure the difference of two encoders' scores is: the paired bootstrap.

Both are judged on the same examples. A resample draws as many examples as there are, with
replacement, and both are scored on it. Where an encoder was fine-tuned with several seeds,
its runs are drawn too, so that the interval covers another choice of seeds.

Sources: Efron & Tibshirani 1993, "An introduction to the bootstrap", sections 13.3 and
15.4; Koehn 2004, "Statistical significance tests for machine translation evaluation";
Berg-Kirkpatrick et al. 2012, "An empirical investigation of statistical significance in
NLP". The runs are drawn as in Hesterberg 2004, "Unbiasing the bootstrap: bootknife sampling
vs. smoothing".
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.train.tasks.task import Judged, Task

_CHUNK = 250  # resamples in memory at once


class Difference(NamedTuple):
    """A score of two encoders A and B."""

    a: float
    """Mean over the runs of A, on all examples."""
    b: float
    low: float
    """Lower end of the 95% interval of a - b."""
    high: float
    p_value: float
    """Two-sided, of the hypothesis that a - b is 0."""

    @property
    def difference(self) -> float:
        return self.a - self.b


def differences(
    task: Task,
    a: Sequence[Judged],
    b: Sequence[Judged],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Difference]:
    """Every metric of the task that both have.

    The interval goes from the 2.5 % to the 97.5 % quantile of the resampled differences.
    The p-value is twice the share of resamples whose difference is 0 or has the other
    sign, counted with one resample more (Davison & Hinkley 1997, section 4.2.1).

    Args:
        a, b: the runs of each encoder, judged on equal examples in equal order.
        progress: called with the numbers of resamples done and of all.
    """
    sides = [[_Scorer(task, judged) for judged in side] for side in (a, b)]
    num_examples = len(a[0].examples)
    shared = [m.name for m in task.metrics if all(m.name in x[0].names for x in sides)]
    rng, *run_rngs = (np.random.default_rng((seed, n)) for n in range(3))
    weights = [
        run_weights(len(side), resamples, run_rng)
        for side, run_rng in zip(sides, run_rngs, strict=True)
    ]
    parts = []
    for start in range(0, resamples, _CHUNK):
        chunk = slice(start, min(start + _CHUNK, resamples))
        size = (chunk.stop - chunk.start, num_examples)
        draws = rng.integers(num_examples, size=size)
        parts.append(
            [
                _mean([scorer(draws) for scorer in side], of_side[:, chunk])
                for side, of_side in zip(sides, weights, strict=True)
            ]
        )
        progress(chunk.stop, resamples)
    whole = np.arange(num_examples)[None]
    observed = [
        _mean(
            [scorer(whole) for scorer in side], np.full((len(side), 1), 1 / len(side))
        )
        for side in sides
    ]
    return {
        name: _difference(
            float(observed[0][name][0]),
            float(observed[1][name][0]),
            np.concatenate([of_a[name] - of_b[name] for of_a, of_b in parts]),
        )
        for name in shared
    }


def _mean(
    runs: list[dict[str, np.ndarray]], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """The weighted mean over runs of each score; weights are [runs, resamples]."""
    return {
        name: (np.stack([run[name] for run in runs]) * weights).sum(axis=0)
        for name in runs[0]
    }


def run_weights(num_runs: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """The share of each run in the mean of each resample, float64 [runs, resamples].

    The ordinary bootstrap of n runs gives (n - 1) / n of the variance that it should give,
    which is far too little for three. So each resample leaves out one run, drawn at random,
    and draws n times among the others, which gives all of it (Hesterberg 2004).
    """
    if num_runs == 1:
        return np.ones((1, resamples))
    left_out = rng.integers(num_runs, size=(resamples, 1))
    drawn = rng.integers(num_runs - 1, size=(resamples, num_runs))
    drawn += drawn >= left_out
    counts = (drawn[:, :, None] == np.arange(num_runs)).sum(axis=1)
    return counts.T / num_runs


def _difference(a: float, b: float, resampled: np.ndarray) -> Difference:
    low, high = np.quantile(resampled, [0.025, 0.975])
    smaller = min((resampled <= 0.0).sum(), (resampled >= 0.0).sum())
    p_value = min(1.0, 2.0 * (smaller + 1) / (resampled.size + 1))
    return Difference(a, b, float(low), float(high), float(p_value))


class _Scorer:
    """Scores a run on resampled examples."""

    def __init__(self, task: Task, judged: Judged) -> None:
        # What was fitted, such as a threshold, stays as it is in every resample.
        self._by_counts = task.fitted_to(judged).by_counts(judged)
        self._num_examples = len(judged.examples)
        self.names = set(self._by_counts(np.ones((1, self._num_examples))))

    def __call__(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of each resample, float64 [resamples].

        Args:
            draws: int [resamples, examples], numbers of examples.
        """
        places = draws + self._num_examples * np.arange(len(draws))[:, None]
        counts = np.bincount(places.ravel(), minlength=draws.size)
        return self._by_counts(counts.reshape(draws.shape).astype(np.float64))
