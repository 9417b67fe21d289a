"""Makes worker processes end when their parent does, even if it was killed."""

import multiprocessing
import os
import threading


def end_with_the_parent() -> None:
    """Ends this worker process as soon as its parent has ended; call it at the start."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
