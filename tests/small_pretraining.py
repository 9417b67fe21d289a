"""What runs of `pretrain` take in tests that look at the whole command."""

import jax
import pytest

SMALL = (
    *("--model.hidden-size", "16", "--model.num-layers", "1", "--model.num-heads", "2"),
    *("--model.mlp-size", "32", "--model.max-positions", "16"),
    *("--data.sequence-length", "16", "--batch-size", "8", "--eval-batches", "2"),
    *("--loop.log-every-steps", "4", "--first-phase-only"),
    *("--compute.dtype", "float32"),
)


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Programs for one device compile in a fraction of the time."""
    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *_: first)
        yield
