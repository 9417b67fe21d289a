"""One process of a job of `launch.local`: ends with it, however that ended."""

import os
import sys
import threading

from bert_jax import cli


def main() -> None:
    """Runs `bert-jax` with all arguments but the first, a pipe held by the launcher."""
    _, lifeline, *command = sys.argv

    def wait() -> None:
        os.read(int(lifeline), 1)  # returns when nobody holds the other end
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    cli.main(command)


if __name__ == "__main__":
    main()
