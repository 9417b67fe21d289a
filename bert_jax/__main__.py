"""The program `bert-jax`, also as `python -m bert_jax`."""

import sys

try:
    from bert_jax.runtime import start
except KeyboardInterrupt:  # the signals are not caught yet
    print("bert-jax: interrupted", file=sys.stderr)
    sys.exit(130)


def main() -> None:
    """Catches signals, then loads the rest and runs the command of `sys.argv`."""
    start.begin()
    from bert_jax import cli

    cli.main()


if __name__ == "__main__":
    main()
