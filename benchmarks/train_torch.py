"""Hugging Face's BertForPreTraining in PyTorch, up to the best that a user can make of it."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import transformers

from benchmarks.measure import peak_memory
from benchmarks.train_candidates import Order
from benchmarks.train_models import Task, mask_rows, synthetic_batch

_CLIP_NORM = 1.0
_LEARNING_RATE = 1e-6  # of ours in its first warm-up steps
_WEIGHT_DECAY = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How it is trained; the defaults are what the library does by itself."""

    attention: Literal["eager", "sdpa"] = "eager"
    gather: bool = False
    """The masked-LM head on the masked positions only, as ours; the library's own loss
    makes logits of every token."""
    fused: bool = False
    """AdamW as one kernel."""
    compile: bool = False
    """`torch.compile` of model and loss."""
    mode: str | None = None
    """Of `torch.compile`."""


class Trainer:
    """A model, its optimizer and a batch; see `train_worker.Trainer`."""

    def __init__(self, order: Order) -> None:
        options = Options(**order.candidate.options)
        if order.task.packed and not options.gather:
            raise ValueError("packed rows need `gather`: the library pools one token")
        self._device = device_of(order.platform)
        torch.manual_seed(0)
        # As told: float32 is float32.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        model: Any = transformers.BertForPreTraining(
            bert_config(order.task, options.attention)
        )
        self.model = model.to(self._device).train()
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=_LEARNING_RATE,
            weight_decay=_WEIGHT_DECAY,
            fused=options.fused,
        )
        inputs = inputs_of(order.task, order.candidate.rows, self._device)
        loss = gathered_loss if options.gather else library_loss
        self._loss: Callable[..., torch.Tensor] = loss
        if options.compile:
            self._loss = torch.compile(loss, mode=options.mode)
        self._arguments = self.model, inputs
        self._bfloat16 = order.candidate.dtype == "bfloat16"
        started = time.perf_counter()
        self.steps(1)
        self.facts = {"first step": time.perf_counter() - started}
        if options.compile:
            self.facts["compile time"] = self.facts.pop("first step")

    def steps(self, count: int) -> dict[str, float]:
        """Trains; returns seconds of it all, and the host's until the last call came back."""
        self._wait()
        started = time.perf_counter()
        for _ in range(count):
            with torch.autocast(
                self._device.type, dtype=torch.bfloat16, enabled=self._bfloat16
            ):
                self._last = self._loss(*self._arguments)
            self._optimizer.zero_grad(set_to_none=True)
            self._last.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP_NORM)
            self._optimizer.step()
        dispatched = time.perf_counter()
        self._wait()
        return {
            "seconds": time.perf_counter() - started,
            "host_seconds": dispatched - started,
        }

    def loss(self) -> float:
        """Of the last step, in nats."""
        return self._last.item()

    def peak_bytes(self) -> float:
        """Of the device; of this process where the device is the host."""
        if self._device.type == "cuda":
            return float(torch.cuda.max_memory_allocated())
        return peak_memory()[0] * 2**30

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def device_of(platform: str) -> torch.device:
    """PyTorch's own device for a platform of JAX.

    Raises:
        ValueError: this PyTorch cannot use it.
    """
    if platform == "cpu":
        return torch.device("cpu")
    if platform != "gpu" or not torch.cuda.is_available():
        raise ValueError(
            f"PyTorch {torch.__version__} cannot use a {platform} here; install a build "
            "that can"
        )
    return torch.device("cuda")


def bert_config(task: Task, attention: str) -> "transformers.BertConfig":
    """The same architecture as ours."""
    cfg = task.model()
    settings: dict[str, Any] = {"attn_implementation": attention}
    return transformers.BertConfig(
        **settings,
        vocab_size=cfg.vocab_size,
        hidden_size=cfg.hidden_size,
        num_hidden_layers=cfg.num_layers,
        num_attention_heads=cfg.num_heads,
        intermediate_size=cfg.mlp_size,
        max_position_embeddings=cfg.max_positions,
        type_vocab_size=cfg.num_segments,
        hidden_dropout_prob=cfg.dropout_rate,
        attention_probs_dropout_prob=cfg.attention_dropout_rate,
        layer_norm_eps=cfg.layer_norm_eps,
        hidden_act={"tanh": "gelu_new", "exact": "gelu"}[cfg.gelu],
    )


def inputs_of(task: Task, rows: int, device: torch.device) -> dict[str, torch.Tensor]:
    """The rows that ours trains on, masked once, with all that either loss needs.

    Packed rows have a mask [B, 1, T, T] in place of [B, T]: the library takes one as it
    is, which keeps their sequences apart.
    """
    batch = synthetic_batch(task, rows)
    masked = mask_rows(task, batch)
    used = masked.weights > 0
    labels = np.full(batch.input_ids.shape, -100)
    for b in range(rows):
        labels[b, masked.positions[b, used[b]]] = masked.labels[b, used[b]]
    mask: np.ndarray = (batch.sequence_ids > 0).astype(np.int64)
    if task.packed:
        mask = (batch.sequence_ids[:, :, None] == batch.sequence_ids[:, None])[:, None]
    arrays: dict[str, Any] = {
        "input_ids": masked.input_ids,
        "token_type_ids": batch.segment_ids,
        "position_ids": batch.position_ids,
        "attention_mask": mask,
        "labels": labels,
        "slots": masked.positions,
        "slot_labels": np.where(used, masked.labels, -100),
        "cls_positions": batch.cls_positions,
        "next_labels": np.where(batch.nsp_weights > 0, batch.nsp_labels, -100),
    }
    tensors = {name: torch.from_numpy(np.array(x)) for name, x in arrays.items()}
    return {
        name: (x if x.dtype == torch.bool else x.long()).to(device)
        for name, x in tensors.items()
    }


def library_loss(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """As the library has it: logits of all tokens, one sequence a row."""
    return model(
        input_ids=inputs["input_ids"],
        token_type_ids=inputs["token_type_ids"],
        attention_mask=inputs["attention_mask"],
        labels=inputs["labels"],
        next_sentence_label=inputs["next_labels"],
    ).loss


def gathered_loss(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The same loss with logits of the masked positions only; any sequences a row."""
    hidden_BTD = model.bert(
        input_ids=inputs["input_ids"],
        token_type_ids=inputs["token_type_ids"],
        position_ids=inputs["position_ids"],
        attention_mask=inputs["attention_mask"],
    )[0]

    def at(positions_BN: torch.Tensor) -> torch.Tensor:
        index = positions_BN[:, :, None].expand(-1, -1, hidden_BTD.shape[-1])
        return torch.gather(hidden_BTD, 1, index)

    # The library's pooler takes the first token of what it is given.
    cls_RD = at(inputs["cls_positions"]).flatten(0, 1)
    pooled_RD = model.bert.pooler(cls_RD[:, None])
    logits_BMV, next_logits_RC = model.cls(at(inputs["slots"]), pooled_RD)
    cross_entropy = torch.nn.functional.cross_entropy
    return cross_entropy(
        logits_BMV.flatten(0, 1), inputs["slot_labels"].flatten()
    ) + cross_entropy(next_logits_RC, inputs["next_labels"].flatten())
