"""What an import has made of a foreign model, and what its user must know of that."""

import dataclasses
import math

from bert_jax.config import ModelConfig
from bert_jax.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
from bert_jax.exchange.added_tokens import AddedTokens
from bert_jax.exchange.source import Source
from bert_jax.train.tasks import Task

_LONGEST_ROW = 512  # tokens; of models that take more, too
_FIRST = 20  # so many names of outputs are said


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of every tensor.

    Attributes:
        kind: of the run that was written, "pretrain" or "finetune".
        source: absolute path of what was read.
        source_sha256: of the source's files.
        used: names of theirs that are in the run.
        unused: names of theirs that are not.
        new: our parameters that the source did not have; freshly drawn.
        sha256: of all parameters of the run.
        notes: what the reader decided or converted.
        added_tokens: what became of the tokens that were to be added, if there were any.
    """

    kind: str
    origin: str
    source: str
    source_sha256: str
    step: int
    used: tuple[str, ...]
    unused: tuple[str, ...]
    new: tuple[str, ...]
    moments: bool
    sha256: str
    notes: tuple[str, ...]
    added_tokens: AddedTokens | None = None


def describe(result: Imported) -> list[str]:
    """Lines for the user: what was used, what was not, what is new."""

    def some(found: tuple[str, ...]) -> str:
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        return f"{len(found)}" + (f": {', '.join(found[:8])}{more}" if found else "")

    return [
        f"{len(result.used)} tensors of {result.origin} used, "
        f"{'with' if result.moments else 'without'} moments",
        f"not used: {some(result.unused)}",
        f"new, drawn afresh: {some(result.new)}",
        *(f"note: {note}" for note in result.notes),
        f"a {result.kind} run at step {result.step:,}, sha256 {result.sha256[:16]}",
    ]


def about_fresh_heads(model: ModelConfig, new: tuple[str, ...]) -> list[str]:
    """What it means for the user that a head is drawn afresh."""
    notes = []
    if any(path.startswith("mlm/") for path in new):
        notes.append(
            "The masked-word head has fresh weights, so its predictions mean nothing "
            f"yet: expect a loss near ln({model.vocab_size:,}) = "
            f"{math.log(model.vocab_size):.1f}, or above. The encoder is as it was; "
            "pretraining trains the head."
        )
    if any(path.startswith("nsp/") for path in new):
        notes.append(
            "The next-sentence head has fresh weights: expect a loss near ln(2) = 0.7."
        )
    if any(path.startswith("pooler/") for path in new):
        notes.append(
            "The pooler has fresh weights; fine-tuning of classifiers trains it."
        )
    return notes


def about_task(
    source: Source, task: Task | None, outputs: tuple[str, ...] | None
) -> list[str]:
    """What the user must know of predictions."""
    if task is None:
        return []
    of_words = source.head == "tokens"
    names = ", ".join((outputs or ())[:_FIRST])
    rest = len(outputs or ()) - _FIRST
    of = f", outputs {names}" if names else ""
    notes = [f"Its task is {task.name}{of}{f' and {rest} more' if rest > 0 else ''}."]
    if source.head == "spans":
        notes.append(
            "Every question gets an answer: from which score on there is none, is not in "
            "the files; fine-tuning on questions without an answer finds it."
        )
    tokenizer = source.tokenizer
    if isinstance(tokenizer, HuggingFaceTokenizer) and tokenizer.gap and of_words:
        notes.append(
            "Every word is encoded with a space before it, the first one too, as "
            "transformers does with add_prefix_space=True."
        )
    if _limit(source) > _LONGEST_ROW:
        notes.append(
            f"A row takes {_limit(source):,} tokens of a text there, and {_LONGEST_ROW} here."
        )
    return notes


def longest_row(source: Source) -> int:
    """Tokens of the longest rows that an imported model predicts on."""
    return min(_LONGEST_ROW, _limit(source))


def _limit(source: Source) -> int:
    positions = source.model.max_positions
    return min(positions, source.max_length or positions)
