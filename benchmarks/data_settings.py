"""What the sections of `benchmarks.data` need to know."""

import dataclasses
import pathlib

from benchmarks.sections import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """What all sections of `benchmarks.data` need to know."""

    source: str
    vocab: pathlib.Path
    vocab_size: int = 30_522
    """Pieces of the SentencePiece vocabulary."""
    num_workers: int
    quick: bool = False
    """Whether the sample takes the place of the source."""
    repetitions: int = 5
    sample_bytes: int = 15_000_000
    """Text of the sample; each repetition of tokenising takes its share of it."""
    peer_bytes: int = 8_000_000
    """Of the sample, what the peers prepare."""
    batch_size: int = 64
    """Rows of T=512 that the loaders give at once."""
    loader_tokens: int = 20_000_000
    """Real tokens of one repetition of our loader."""
    num_steps: int = 30
    """Updates of each of the short trainings."""
    model: str = "tiny"
    """Size of the model of those trainings, a name of `bert_jax.family`."""

    @property
    def sample(self) -> pathlib.Path:
        """The first documents of the source, as JSONL."""
        return self.workdir / "sample.jsonl"

    @property
    def corpus(self) -> str:
        """The source of whatever works on the whole text."""
        return f"files:{self.sample}" if self.quick else self.source

    def prepared(self, kind: str) -> pathlib.Path:
        """The dataset that the section of this name has prepared."""
        return self.workdir / f"prepared-{kind}"

    def tokenizer(self, kind: str) -> pathlib.Path:
        return self.workdir / f"tokenizer-{kind}"
