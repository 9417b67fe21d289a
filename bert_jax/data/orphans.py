"""Worker processes that end with their parent, however that ended."""

import multiprocessing
import os
import threading


def end_with_the_parent() -> None:
    """To be called in a worker process: a killed parent cannot tell it to stop."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
