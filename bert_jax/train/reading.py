"""Says what was read from labelled files, so that a wrong reading is seen at once."""

from collections.abc import Sequence
from typing import Any, TextIO

from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.data.labelled.lengths import LengthBatches, padding_share
from bert_jax.train.tasks.task import Task


def show_reading(
    task: Task,
    split: str,
    examples: Any,
    outputs: Sequence[str],
    file: TextIO | None = None,
) -> None:
    """Prints the number of examples, how the file was read, and the labels with counts.

    Args:
        file: stream to print to. Default: standard output.
    """
    reading = examples.reading
    lines = [
        f"{split}: {len(examples):,} examples of {reading.path} ({reading.how})",
        f"  {task.counts(examples, outputs)}",
    ]
    if reading.num_skipped:
        lines.append(f"  left out: {reading.num_skipped:,} rows without text or label")
    warnings = [*reading.warnings, *task.warnings(examples)]
    lines += [f"  warning: {warning}" for warning in warnings]
    print("\n".join(lines), file=file, flush=True)


def show_rows(
    task: Task, split: str, encoded: EncodedExamples, batches: LengthBatches
) -> None:
    """Prints the lengths of rows, their share of padding, and how many texts were cut."""
    *others, last = sorted(set(batches.lengths.tolist()))
    lengths = f"{', '.join(map(str, others))} or {last}" if others else str(last)
    # The mean over a group, whose rows are all as long as its longest.
    num_tokens = encoded.input_mask.sum(axis=-1).reshape(len(encoded), -1).mean(axis=1)
    text = (
        f"{split}: {len(encoded):,} rows, filled up to {lengths} tokens: "
        f"{padding_share(num_tokens, batches):.0%} padding"
    )
    if encoded.num_cut:
        way_out = "--sequence-length"
        if "long_texts" in task.settings:
            way_out += ", --long-texts"
        text += (
            f"; {encoded.num_cut:,} texts {encoded.lost}, at {encoded.input_ids.shape[-1]} "
            f"tokens ({way_out})"
        )
    print(text, flush=True)
