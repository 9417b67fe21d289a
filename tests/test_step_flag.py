"""`--step` of the commands that read weights and judge nothing: fill, embed, serve."""

import shutil

import jax
import numpy as np
import pytest
from exchange_models import make_tokenizer
from random_runs import random_run

from bert_jax.serve.served import load_served
from bert_jax.train.inference.embed import Embedder
from bert_jax.train.inference.fill import Filler
from bert_jax.train.runs.checkpoint import Checkpoints
from bert_jax.train.runs.run import load_run
from bert_jax.train.step import TrainState

TEXT = "A [MASK] river."


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with checkpoints of step 0, and of step 5 with all weights doubled."""
    folder = tmp_path_factory.mktemp("step") / "run"
    tokenizer = make_tokenizer("wordpiece")
    random_run(folder, tokenizer)
    identity = load_run(folder).identity
    params = Filler(folder).params
    state = TrainState(
        step=jax.numpy.int32(5),
        params=jax.tree.map(lambda x: 2.0 * x, params),
        opt_state=None,
        key=jax.random.key_data(jax.random.key(0)),
    )
    with Checkpoints(folder, identity, keep=2) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
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
