"""Ways of predicting the same texts with the same weights: ours, and those of transformers.

Every way begins with texts in memory and ends with one line of JSON for each of them.
"""

import itertools
import json
import pathlib
import time
from typing import Any

from bert_jax.data.labelled.unlabelled import Unlabelled

LABELS = ("negative", "positive")
_LENGTH = 128
_BATCH_SIZE = 32


def make_models(folder: str, size: str, vocab: str) -> int:
    """Writes a classifier of random weights twice: for transformers and as a run.

    Args:
        folder: gets `hf/` and `run/`.
        size: a size of `bert_jax.family`.
        vocab: a vocab.txt of lower-case pieces.

    Returns:
        The number of parameters.
    """
    import torch
    import transformers

    from bert_jax.exchange.importing import import_run
    from bert_jax.family import model_config

    pieces = pathlib.Path(vocab)
    library: Any = transformers  # it makes its names when they are asked for
    tokenizer = library.BertTokenizerFast(str(pieces), do_lower_case=True)
    cfg = model_config(size, vocab_size=len(tokenizer))
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=cfg.vocab_size,
            hidden_size=cfg.hidden_size,
            num_hidden_layers=cfg.num_layers,
            num_attention_heads=cfg.num_heads,
            intermediate_size=cfg.mlp_size,
            # Wide enough that the answers differ from text to text.
            initializer_range=0.1,
            id2label=dict(enumerate(LABELS)),
            label2id={name: n for n, name in enumerate(LABELS)},
        )
    )
    target = pathlib.Path(folder, "hf")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    (target / "vocab.txt").write_bytes(pieces.read_bytes())
    import_run(target, pathlib.Path(folder, "run"))
    return int(model.num_parameters())


class Predicting:
    """A runner whose turn is one pass over all texts.

    A subclass loads its model in `load` and answers in `lines`.
    """

    def __init__(self, folder: str, texts: str, count: int, **options: Any) -> None:
        """Loads the model, answers one text, and goes through all texts once.

        Args:
            folder: of `make_models`.
            texts: a file with a text a line.
            count: number of texts to read of it.
            options: for `load`.
        """
        with pathlib.Path(texts).open(encoding="utf-8") as file:
            some = (line.strip() for line in file)
            self.texts = list(itertools.islice(filter(None, some), count))
        began = time.perf_counter()
        self.load(pathlib.Path(folder), **options)
        self.lines(self.texts[:1])
        self.start_secs = time.perf_counter() - began
        self.lines(self.texts)

    def load(self, folder: pathlib.Path, **options: Any) -> None:
        raise NotImplementedError

    def lines(self, texts: list[str]) -> list[str]:
        """One JSON object with "label" and "probabilities" for each text, in order."""
        raise NotImplementedError

    def turn(self, number: int, seconds: float) -> dict[str, float]:
        """One pass; "sum" is that of the probabilities of the second class."""
        began = time.perf_counter()
        lines = self.lines(self.texts)
        elapsed = time.perf_counter() - began
        shares = [json.loads(line)["probabilities"][LABELS[1]] for line in lines]
        return {
            "seconds": elapsed,
            "texts": len(lines),
            "sum": sum(shares),
            "start": self.start_secs,
        }


class OurPredicting(Predicting):
    """What `bert-jax predict` does."""

    def load(self, folder: pathlib.Path, **options: Any) -> None:
        from bert_jax.train.inference.predict import Predictor

        self._predictor = Predictor(folder / "run")

    def lines(self, texts: list[str]) -> list[str]:
        given = Unlabelled([(text,) for text in texts])
        found = self._predictor.lines(given.parts(10_000))
        return [json.dumps(line, ensure_ascii=False) for line in found]


class TorchPredicting(Predicting):
    """A loop over batches, each padded to its longest text; or the library's pipeline."""

    def load(
        self,
        folder: pathlib.Path,
        way: str = "loop",
        threads: int | None = None,
        **options: Any,
    ) -> None:
        """Loads the model.

        Args:
            folder: of `make_models`.
            way: "loop", "sorted" (a loop over the texts by their length), or "pipeline".
            threads: of PyTorch. Default: its own choice.
        """
        import torch
        import transformers

        if threads is not None:
            torch.set_num_threads(threads)
        self._torch, self._way = torch, way
        source = folder / "hf"
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        self._model = transformers.AutoModelForSequenceClassification.from_pretrained(
            source, attn_implementation="sdpa"
        ).eval()
        self._pipeline = transformers.pipeline(
            "text-classification",
            model=self._model,
            tokenizer=self._tokenizer,
            top_k=None,
        )

    def lines(self, texts: list[str]) -> list[str]:
        if self._way == "pipeline":
            found: Any = self._pipeline(
                texts, batch_size=_BATCH_SIZE, truncation=True, max_length=_LENGTH
            )
            return [
                _line(text, {x["label"]: x["score"] for x in said})
                for text, said in zip(texts, found, strict=True)
            ]
        order = list(range(len(texts)))
        if self._way == "sorted":
            order.sort(key=lambda n: len(texts[n]))
        lines = [""] * len(texts)
        with self._torch.inference_mode():
            for first in range(0, len(order), _BATCH_SIZE):
                numbers = order[first : first + _BATCH_SIZE]
                batch = self._tokenizer(
                    [texts[n] for n in numbers],
                    padding=True,
                    truncation=True,
                    max_length=_LENGTH,
                    return_tensors="pt",
                )
                probs = self._model(**batch).logits.softmax(-1).tolist()
                for n, row in zip(numbers, probs, strict=True):
                    lines[n] = _line(texts[n], dict(zip(LABELS, row, strict=True)))
        return lines


def _line(text: str, shares: dict[str, float]) -> str:
    best = max(shares, key=lambda name: shares[name])
    line = {"text": text, "label": best, "probabilities": shares}
    return json.dumps(line, ensure_ascii=False)
