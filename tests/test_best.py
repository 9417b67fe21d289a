"""Which state of a run counts, when a run ends early, and what a kill leaves of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting_training import KilledError, stage_of, train_counting

from bert_jax.config import LoopConfig
from bert_jax.train import loop
from bert_jax.train.best import Selection
from bert_jax.train.monitoring.metrics import read_metrics
from bert_jax.train.runs.checkpoint import (
    BEST,
    NEWEST,
    Checkpoints,
    Identity,
    open_weights,
)
from bert_jax.train.stop_request import InterruptedRunError
from bert_jax.train.tasks.task import Metric

SCORES = {1: 0.2, 2: 0.5, 3: 0.4, 4: 0.5, 5: 0.3, 6: 0.1, 7: 0.6, 8: 0.55}


@pytest.fixture
def train(tmp_path, tiny, make_batch):
    """train(...): eight steps, judged after each; the weights are the number of steps."""
    batch = make_batch(rows=2, length=16, pairs=1)

    def train(patience=None, *, scores=SCORES, larger=True, kill_at=None, every=3):
        def evaluate(params):
            score = scores[int(params["w"][0])]
            if score == kill_at:
                raise KilledError
            return {"loss": 1.0, "score": score}

        def batches(first):
            for number in range(first, 8):
                if number == kill_at:
                    raise KilledError
                yield batch

        return train_counting(
            tmp_path,
            tiny,
            LoopConfig(
                log_every_steps=8, eval_every_steps=1, checkpoint_every_steps=every
            ),
            [stage_of(num_steps=8, batches=batches, evaluate=evaluate)],
            selection=Selection(
                deciding=lambda _: Metric("score", "score", larger_is_better=larger),
                patience=patience,
            ),
        )

    return train


def evaluated(run):
    return [line["step"] for line in read_metrics(run) if line["kind"] == "eval"]


def taken(run, tiny):
    """(step, weights) that other commands take."""
    with open_weights(run, Identity(tiny, "0")) as weights:
        found = weights.restore_params({"w": jax.ShapeDtypeStruct((4,), jnp.float32)})
        return weights.latest_step(), np.asarray(found["w"])


@pytest.mark.parametrize(
    ("patience", "larger", "best", "last"),
    [
        (None, True, 7, 8),
        (2, True, 2, 4),
        (5, True, 7, 8),
        (None, False, 6, 8),
        (1, False, 1, 2),
    ],
)
def test_the_best_state_counts_and_patience_ends_the_run(
    train, tmp_path, tiny, capsys, patience, larger, best, last
):
    """Of the equal scores of steps 2 and 4, the earlier one is the best."""
    trained = train(patience, larger=larger)
    assert trained.best == (best, {"loss": 1.0, "score": SCORES[best]})
    assert int(trained.state.step) == last
    assert trained.evaluation["score"] == SCORES[last]
    assert evaluated(tmp_path) == list(range(1, last + 1))
    step, weights = taken(tmp_path, tiny)
    assert step == best
    np.testing.assert_array_equal(weights, best)
    said = capsys.readouterr().out
    early = f"training ends at step {last} of 8 without a better score: the best: "
    assert (early in said) == (last < 8)
    assert f"{{'score': {SCORES[best]}}} at step {best}" in said


@pytest.mark.parametrize(
    ("patience", "killed"),
    [(None, 0.5), (None, 0.55), (None, 2), (None, 5), (3, 0.4), (3, 4)],
)
def test_a_killed_run_knows_its_best(train, tmp_path, tiny, patience, killed):
    """Killed in an evaluation (by its score), or between two steps (by their number)."""
    whole = train(patience)
    lines = read_metrics(tmp_path)
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(KilledError):
        train(patience, kill_at=killed)
    again = train(patience)
    assert again.best == whole.best
    assert int(again.state.step) == int(whole.state.step)
    assert again.evaluation == whole.evaluation
    assert evaluated(tmp_path) == [x["step"] for x in lines if x["kind"] == "eval"]
    step, weights = taken(tmp_path, tiny)
    assert step == whole.best.step
    np.testing.assert_array_equal(weights, step)


def test_a_run_that_ended_early_stays_so(train, tmp_path):
    """A kill between the end of training and the results."""
    first = train(patience=2)
    again = train(patience=2)
    assert (again.best, again.evaluation) == (first.best, first.evaluation)
    assert int(again.state.step) == 4
    assert evaluated(tmp_path) == [1, 2, 3, 4]


def test_a_signal_is_no_end(train, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_must_stop", lambda self: self.done >= 3)
        with pytest.raises(InterruptedRunError, match="stopped at step 3 of 8"):
            train(patience=2)
    assert train(patience=2).best.step == 2
    assert evaluated(tmp_path) == [1, 2, 3, 4]


def test_before_the_first_evaluation_the_newest_state_is_taken(train, tmp_path, tiny):
    with pytest.raises(KilledError):
        train(kill_at=0.2, every=1)
    assert not any((tmp_path / BEST).iterdir())
    assert taken(tmp_path, tiny)[0] == 1
    # A state that was being written when the machine went down is none.
    (tmp_path / BEST / "1.orbax-checkpoint-tmp").mkdir()
    assert taken(tmp_path, tiny)[0] == 1


def test_a_changed_best_is_refused(train, tmp_path, tiny):
    train(patience=2)
    manifest = tmp_path / BEST / "2/manifest/metadata"
    manifest.write_text(manifest.read_text().replace('"score": 0.5', '"score": 0.9'))
    with pytest.raises(
        ValueError, match=r"metadata is not what was saved.*best is deleted"
    ):
        train(patience=2)
    with Checkpoints(tmp_path, Identity(tiny, "0"), place=NEWEST) as newest:
        assert newest.note("evaluation") is None
