"""Tokenising alone: ours, with its checks and its cache, beside the bare libraries.

Each repetition takes text that no candidate has seen, so that a cache over words is
worth what it is worth while a corpus goes by. The first one finds it empty.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks import peers
from benchmarks.data_settings import DataSettings
from benchmarks.data_text import read_sample, slices
from benchmarks.measure import Findings, interleaved, report_ratios
from bert_jax.data.text.sentences import sentences
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer


@dataclasses.dataclass(frozen=True)
class _Part:
    """The documents of one repetition."""

    texts: list[str]
    sentences: list[list[str]]
    """Of each document."""
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class _Rivals:
    """Our tokenizer and the library's own call over the same vocabulary."""

    kind: str
    ours: Tokenizer
    bare: Callable[[list[str]], list[list[int]]]

    def measure(self, parts: Sequence[_Part], findings: Findings) -> None:
        """Times three ways to encode the same documents, in turns."""
        ours = f"{self.kind}, ours, sentences"
        ways: dict[str, Callable[[_Part], int]] = {
            ours: self._joined,
            f"{self.kind}, bare, sentences": self._by_sentence,
            f"{self.kind}, bare, whole documents": self._by_document,
        }

        def candidate(way: Callable[[_Part], int]) -> Callable[[int], dict[str, float]]:
            def run(number: int) -> dict[str, float]:
                return {"bytes": parts[number].num_bytes, "tokens": way(parts[number])}

            return run

        timings = interleaved(
            {name: candidate(way) for name, way in ways.items()}, len(parts), findings
        )
        for name, timing in timings.items():
            findings.figure(name, "MB/s", *timing.rates("bytes", 1e6))
            findings.figure(name, "M tokens/s", *timing.rates("tokens", 1e6))
        report_ratios(timings, ours, "bytes", findings, {})

    def _joined(self, part: _Part) -> int:
        return sum(self.ours.encode_joined(cut)[0].size for cut in part.sentences)

    def _by_sentence(self, part: _Part) -> int:
        return sum(len(ids) for cut in part.sentences for ids in self.bare(cut))

    def _by_document(self, part: _Part) -> int:
        return sum(map(len, self.bare(part.texts)))

    def count_differences(self, parts: Sequence[_Part]) -> tuple[int, int]:
        """(sentences whose ids are not those of the library, all sentences)."""
        differing = total = 0
        for cut in (cut for part in parts for cut in part.sentences):
            ids, lengths = self.ours.encode_joined(cut)
            found = np.split(ids, np.cumsum(lengths)[:-1])
            for mine, its in zip(found, self.bare(cut), strict=True):
                differing += not np.array_equal(mine, its)
            total += len(cut)
        return differing, total


def tokenize(settings: DataSettings, findings: Findings) -> None:
    """MB/s and tokens/s of both kinds, and whether the ids are those of the library."""
    parts = []
    for texts in slices(read_sample(settings), settings.repetitions):
        cut = [sentences(text) for text in texts]
        num_bytes = sum(len(text.encode()) for text in texts)
        parts.append(_Part(texts, [c for c in cut if c], num_bytes))

    bare = peers.bare_wordpiece(settings.vocab)

    def wordpiece(texts: list[str]) -> list[list[int]]:
        encodings = bare.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    ours = WordPieceTokenizer.from_vocab(settings.vocab, lowercase=True)
    rivals = _Rivals("WordPiece", ours, wordpiece)
    rivals.measure(parts, findings)
    differing, total = rivals.count_differences(parts)
    what = f"of {total:,} sentences, with other ids than the library's"
    findings.figure(f"WordPiece, {what}", "", differing, at_most=0)

    directory = settings.tokenizer("sentencepiece")
    if not directory.exists():
        findings.left_out("SentencePiece", "the section `vocabulary` has not run")
        return
    trained = load_tokenizer(directory)
    processor = peers.bare_sentencepiece(directory / trained.model_file)

    def sentencepiece(texts: list[str]) -> list[list[int]]:
        return processor.encode(texts, num_threads=1)

    rivals = _Rivals("SentencePiece", trained, sentencepiece)
    rivals.measure(parts, findings)
    differing, _ = rivals.count_differences(parts)
    findings.figure(
        f"SentencePiece, {what}",
        "",
        differing,
        note="where several segmentations score the same, ours takes one by rule, so "
        "that exported tokenizers agree",
    )
