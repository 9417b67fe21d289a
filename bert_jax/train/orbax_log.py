"""Which log lines of Orbax and asyncio are printed."""

import logging

# Orbax warns each time a directory is opened read-only; these warnings are expected.
_EXPECTED = ("CheckpointManagerOptions.read_only=True", "Given directory is read only")


def _is_news(line: logging.LogRecord) -> bool:
    """Whether a log line of Orbax or asyncio should be printed.

    Each of Orbax's threads and tasks also logs the traceback of an error on its way to
    `wait`, which raises it.
    """
    text = line.getMessage()
    is_traceback = line.exc_info is not None and "orbax" in line.pathname + text
    return not is_traceback and not text.startswith(_EXPECTED)


def silence_expected_lines() -> None:
    """Prints no line that tells a user nothing."""
    for logger in ("absl", "asyncio"):
        logging.getLogger(logger).addFilter(_is_news)
