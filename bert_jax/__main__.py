"""The program `bert-jax`, also as `python -m bert_jax`."""

from bert_jax.runtime import start


def main() -> None:
    """Catches signals, then loads the rest and runs the command of `sys.argv`."""
    start.begin()
    from bert_jax import cli

    cli.main()


if __name__ == "__main__":
    main()
