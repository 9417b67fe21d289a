"""One tiny model of every head, our logits of it, and the NumPy reference's."""

import dataclasses
from typing import NamedTuple

import numpy as np
import reference
from small_tokenizers import wordpiece

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ModelConfig
from bert_jax.exchange.comparison import Probe, our_run
from bert_jax.exchange.portable import LABELLED, PortableModel

HEADS = ("pretraining", "mlm", "classifier", "tokens", "spans")
LABELS = ("down", "level", "up")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENIZER = wordpiece("river", "stone", *_LETTERS, *(f"##{c}" for c in _LETTERS))


class Ids(NamedTuple):
    """Int32 [B, T] each; mask is 1 on real tokens."""

    input_ids: np.ndarray
    segment_ids: np.ndarray
    mask: np.ndarray


class Model(PortableModel):
    """What every `write_...` takes, and its two forward passes."""

    def probe(self, ids: Ids) -> Probe:
        """The ids, with our outputs of them."""
        options = {"hidden_states": self.hidden_states}
        run = our_run(self.cfg, self.params, self.head, **options)
        outputs = run(ids.input_ids, ids.mask, ids.segment_ids)
        return Probe(self.head, self.inputs, self.outputs, outputs, *ids)

    def expected(self, ids: Ids) -> dict[str, np.ndarray]:
        """Logits by their exported name, from NumPy and float64; NaN on padding."""
        if self.head not in ("pretraining", "mlm"):
            batch = ClassifyBatch(*ids, None, None)
            logits = reference.text_logits(self.cfg, self.head, self.params, batch)
            if self.head != "spans":
                return {"logits": logits}
            return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}
        cfg, p = self.cfg, reference.to_float64(self.params)
        rows, length = ids.mask.shape
        mlm, nsp = np.full((rows, length, cfg.vocab_size), np.nan), []
        for b in range(rows):
            real = np.flatnonzero(ids.mask[b])
            columns = (ids.input_ids[b, real], ids.segment_ids[b, real], real)
            hidden = reference.encode(cfg, p, *columns)
            mlm[b, real] = [reference.mlm_logits(cfg, p, x) for x in hidden]
            if self.head == "mlm":
                continue
            pooled = reference.pool(p, hidden[0])
            nsp.append(pooled @ p["nsp"]["kernel"] + p["nsp"]["bias"])
        if self.head == "mlm":
            return {"logits": mlm}
        return {"prediction_logits": mlm, "seq_relationship_logits": np.array(nsp)}


def make_model(
    tiny: ModelConfig,
    head: str,
    labels: tuple[str, ...] = LABELS,
    hidden_states: bool = False,
    **changes,
) -> Model:
    """Random in every tensor, the vocabulary's padding too: it must not show."""
    cfg = dataclasses.replace(tiny, vocab_size=TOKENIZER.vocab_size, **changes)
    if head in ("pretraining", "mlm"):
        shapes = reference.pretrain_shapes(cfg)
    else:
        num_classes = 2 if head == "spans" else len(labels)
        shapes = reference.text_shapes(cfg, head, num_classes)
    params = reference.random_params(shapes, seed=2)
    if head == "mlm":
        params = {part: params[part] for part in ("embed", "layers", "mlm")}
    labels = labels if head in LABELLED else None
    return Model(
        *(cfg, params, head, TOKENIZER), labels=labels, hidden_states=hidden_states
    )


def make_ids(rows: int, length: int, seed: int = 0) -> Ids:
    """Row 0 is full; each next one has a little more padding, but two real tokens."""
    rng = np.random.default_rng(seed)
    ends = np.maximum(length - 3 * np.arange(rows), 2)[:, None]
    place = np.arange(length)[None]
    mask = (place < ends).astype(np.int32)
    ids = rng.integers(5, TOKENIZER.vocab_size, (rows, length)).astype(np.int32)
    segments = (place >= ends // 2).astype(np.int32)
    return Ids(ids * mask, segments * mask, mask)


def change_padding(ids: Ids) -> Ids:
    """Other ids and segments where the mask is 0."""
    padding = ids.mask == 0
    assert padding.any()
    return ids._replace(
        input_ids=np.where(padding, 7, ids.input_ids).astype(np.int32),
        segment_ids=np.where(padding, 1, ids.segment_ids).astype(np.int32),
    )


def real_differences(model: Model, found: dict, ids: Ids) -> float:
    """Largest difference from the reference, padding aside."""
    expected = model.expected(ids)
    assert set(found) == set(expected)
    gaps = []
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert found[name].dtype == np.float32, name
        gap = np.abs(np.asarray(found[name], np.float64) - value)
        known = ~np.isnan(value)
        # Only whole positions may be left out, and only those of padding.
        per_token = value.ndim > 1 and value.shape[1] == ids.mask.shape[1]
        assert known.all() or (per_token and known[ids.mask == 1].all())
        gaps.append(gap[known].max())
    return float(np.max(gaps))
