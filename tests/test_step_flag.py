"""`--step` of the commands that read weights: whose they are, and what was fitted to them."""

import shutil

import jax
import numpy as np
import pytest
from exchange_models import make_tokenizer
from random_runs import random_run

from bert_jax.config import LoopConfig
from bert_jax.serve.served import load_served
from bert_jax.train.inference.embed import Embedder
from bert_jax.train.inference.fill import Filler
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.monitoring.metrics import MetricsLog
from bert_jax.train.runs.checkpoint import Checkpoints
from bert_jax.train.runs.results_file import save_results
from bert_jax.train.runs.run import load_run
from bert_jax.train.step import TrainState

TEXT = "A [MASK] river."


def add_step(run, step, params):
    state = TrainState(
        step=jax.numpy.int32(step),
        params=params,
        opt_state=None,
        key=jax.random.key_data(jax.random.key(0)),
    )
    with Checkpoints(run, load_run(run).identity, keep=9) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with checkpoints of step 0, and of step 5 with all weights doubled."""
    folder = tmp_path_factory.mktemp("step") / "run"
    tokenizer = make_tokenizer("wordpiece")
    random_run(folder, tokenizer)
    add_step(folder, 5, jax.tree.map(lambda x: 2.0 * x, Filler(folder).params))
    return folder


ANSWERS = {
    "fill": lambda run, step: Filler(run, step=step)([(TEXT,)])[0]["masks"],
    "embed": lambda run, step: Embedder(run, step=step)(["A river."]).tolist(),
    "serve": lambda run, step: load_served(run, step=step, batch_size=1).compute(
        [(TEXT,)]
    )[0]["masks"],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_weights_are_those_of_the_step(run, name):
    newest, first, last = (ANSWERS[name](run, step) for step in (None, 0, 5))
    assert newest == last
    assert first != last


@pytest.mark.parametrize("name", ANSWERS)
def test_a_step_without_a_checkpoint_is_refused(run, name, tmp_path, refused):
    texts = tmp_path / "texts.txt"
    texts.write_text("A river.\n")
    run = shutil.copytree(run, tmp_path / "run")
    (run / "best/3").mkdir(parents=True)
    more = {
        "fill": [TEXT],
        "embed": [str(texts), "--output", str(tmp_path / "vectors.npy")],
        "serve": [],
    }
    said = refused(name, run, *more[name], "--step", "7")
    assert f"{run} has no checkpoint of step 7; there are [0, 3, 5]" in said
    assert not np.any([path.suffix == ".npy" for path in tmp_path.iterdir()])


def test_each_step_has_the_threshold_that_was_fitted_to_it(tmp_path, capsys):
    name, run = "no_answer_threshold", tmp_path / "run"
    random_run(run, make_tokenizer("wordpiece"), "spans", text=("question", "context"))
    params = Predictor(run).params
    for step in (1, 2, 3):
        add_step(run, step, params)
    log = MetricsLog(run, 0, LoopConfig())
    log.write("eval", 1, {"f1": 0.5, name: -2.5})
    log.write("eval", 2, {"f1": 0.7, name: 1.5})
    log.close()

    def fitted(step):
        return Predictor(run, step=step).task.fitted

    assert (fitted(1), fitted(2)) == ({name: -2.5}, {name: 1.5})  # not finished yet
    save_results(run, {"step": 3, "best": {"step": 2}, "fitted": {name: 1.5}})
    assert (fitted(1), fitted(2)) == ({name: -2.5}, {name: 1.5})
    assert "note:" not in capsys.readouterr().err
    assert fitted(3) == {name: 1.5}
    said = capsys.readouterr().err
    assert f"was not judged at step 3, so {name} is what was fitted" in said
