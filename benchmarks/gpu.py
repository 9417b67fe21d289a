"""The one command for a machine with an NVIDIA GPU: is it correct, and how fast is it?

    python -m benchmarks.gpu [--minutes 7] [--only MODEL ...] [--output DIR]

What `benchmarks.train` does, in seven minutes, and an error where JAX finds no GPU. Needs
jax[cuda13], PyTorch with CUDA and transformers, but neither TFDS nor Grain nor any text.
Writes `gpu-MACHINE-DATE.md` and `.json`. Ctrl-C keeps the tables that are complete.
"""

import sys

import tyro

from benchmarks.train import Options, run


def main() -> int:
    options = tyro.cli(Options, description=__doc__, default=Options(minutes=7.0))
    return run("gpu", options, needed="gpu")


if __name__ == "__main__":
    sys.exit(main())
