"""One process of a job that `launch.local` started; it ends when the launcher ends."""

import os
import sys
import threading

from bert_jax import cli
from bert_jax.runtime import start


def main() -> None:
    """Runs `bert-jax`; the first argument is the number of a pipe to the launcher."""
    start.begin()
    _, lifeline, *command = sys.argv

    def wait() -> None:
        os.read(int(lifeline), 1)  # returns when nobody holds the other end
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    cli.main(command)


if __name__ == "__main__":
    main()
