"""How much a service takes at once. Imports nothing heavy, so that `--help` has it."""

import dataclasses

from bert_jax.config.checks import require, require_not_negative, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may hold, and how requests of several users share the model."""

    batch_size: int = 32
    """Most texts that are computed at once."""
    wait_ms: float = 5.0
    """Milliseconds that the first text of a batch waits for texts of other requests."""
    queue_size: int = 256
    """Most texts that wait for the model. A request that finds no room is answered with
    status 503."""
    max_texts: int = 64
    """Most texts of one request. More are answered with status 413."""
    max_characters: int = 20_000
    """Most characters of one text, both parts of a pair together. A longer text is
    answered with status 413."""
    max_body_kib: int = 1_024
    """Most kibibytes of the body of a request. More are answered with status 413."""
    timeout_secs: float = 30.0
    """Seconds that a request may take. A longer one is answered with status 504."""

    def __post_init__(self) -> None:
        names = [field.name for field in dataclasses.fields(self)]
        require_positive(self, *(name for name in names if name != "wait_ms"))
        require_not_negative(self, "wait_ms")
        require(
            self.max_texts <= self.queue_size,
            f"Limits.max_texts={self.max_texts} is more than queue_size="
            f"{self.queue_size}, so a full request would never find room. Raise "
            "--queue-size, or lower --max-texts.",
        )
        require(
            self.wait_ms < 1_000 * self.timeout_secs,
            f"Limits.wait_ms={self.wait_ms:g} is not less than timeout_secs="
            f"{self.timeout_secs:g} seconds, so a request without others would be computed "
            "too late. Lower --wait-ms, or raise --timeout-secs.",
        )
