"""What a fine-tuning run says of itself: gradients, first loss, and gain."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.config import MeshConfig
from bert_jax.train import trust
from bert_jax.train.losses import Mean
from bert_jax.train.mesh import make_mesh
from bert_jax.train.step import TrainState
from bert_jax.train.tasks import TASKS
from bert_jax.train.tensors import path_name

PARAMS = {
    "embed": {"token": jnp.ones((5, 4))},
    "layers": {"up": jnp.ones((3, 4, 4)), "bias": jnp.ones((3, 4))},
    "classifier": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)},
}


@pytest.fixture
def watched(monkeypatch):
    """watched(cut, fresh_loss): a step whose gradients are 0 in the parts of `cut`."""
    monkeypatch.setattr(trust, "_LOOK_AFTER", 2)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())

    def make(cut, fresh_loss=None):
        def one(path, x):
            name = path_name(path)
            # A third of the layers: the second one.
            kept = jnp.arange(3) != 1 if "layers 2" in cut else jnp.ones(3, bool)
            if name.startswith("layers"):
                return x * kept.reshape(-1, *[1] * (x.ndim - 1))
            return x * 0.0 if path[0].key in cut else x

        def step(state, batch):
            grads = jax.tree_util.tree_map_with_path(one, state.params)
            _, opt_state = optimizer.update(grads, state.opt_state)
            new = TrainState(state.step + 1, state.params, opt_state, state.key)
            return new, {"loss": Mean(jnp.float32(1.4), jnp.float32(2.0))}

        state = TrainState(
            jnp.int32(0), PARAMS, optimizer.init(PARAMS), jnp.zeros(2, jnp.uint32)
        )
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        return trust.WatchedStep(step, mesh, fresh_loss), state

    return make


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        ((), ""),
        (("embed",), "no gradient has reached embed; nothing is learned there"),
        (("layers 2",), "no gradient has reached layers (trained layer 2); nothing"),
        (("embed", "classifier"), "no gradient has reached classifier, embed;"),
    ],
    ids=str,
)
def test_a_part_without_gradients_is_named_once(watched, capsys, cut, said):
    step, state = watched(cut)
    for _ in range(4):
        state, _ = step(state, None)
    found = capsys.readouterr().out
    assert found.count("warning: in 2 updates") == bool(cut)
    assert said in found


def test_the_first_loss_is_compared_in_the_first_session_only(watched, capsys):
    step, state = watched((), fresh_loss=0.69)
    for _ in range(3):
        state, _ = step(state, None)
    said = "first loss 0.700; a head that knows nothing has about 0.690\n"
    assert capsys.readouterr().out == said
    step, _ = watched((), fresh_loss=0.69)
    step(state, None)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("loss", "warns"), [(1.0, False), (3.0, True), (0.2, True)])
def test_a_first_loss_that_is_far_off_is_a_warning(loss, warns):
    assert trust.say_first_loss(loss, 1.1).startswith("warning: ") == warns


def test_equal_probabilities_have_the_loss_that_the_task_says():
    assert TASKS["classification"].fresh_loss("abc") == pytest.approx(np.log(3))
    assert TASKS["tokens"].fresh_loss("abcd") == pytest.approx(np.log(4))
    assert TASKS["regression"].fresh_loss(["score"]) is None


@pytest.mark.parametrize(
    ("kind", "scores", "constant", "said"),
    [
        # The majority class of MRPC.
        (
            "classification",
            {"accuracy": 0.6838, "f1": 0.8122},
            {"accuracy": 0.6838},
            "warning: accuracy 68.4% is no better than 68.4% of giving every example",
        ),
        ("classification", {"accuracy": 0.69}, {"accuracy": 0.6838}, None),
        (
            "regression",
            {"pearson": 0.1, "mse": 2.0},
            {"mse": 1.9},
            "warning: MSE 2.000",
        ),
        ("regression", {"pearson": 0.1, "mse": 1.8}, {"mse": 1.9}, None),
        ("classification", {"accuracy": 0.2}, {}, None),
    ],
)
def test_a_model_that_says_the_same_of_everything_is_a_warning(
    kind, scores, constant, said
):
    found = trust.no_gain_over_constant(TASKS[kind], scores, constant)
    assert found == said if said is None else found.startswith(said)
