"""What runs of `pretrain` take in tests that look at the whole command."""

import jax
import pytest

from bert_jax import cli

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


def pretrain_args(output, *flags, dataset) -> list[str]:
    """The command line of a small run."""
    places = ("--output", output, "--data.dataset", dataset)
    return [*map(str, ("pretrain", "bert_base", *places, *SMALL, *flags))]


def pretrain(output, *flags, dataset) -> None:
    cli.main(pretrain_args(output, *flags, dataset=dataset))
