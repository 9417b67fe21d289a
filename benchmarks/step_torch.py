"""The train step of Hugging Face's BertForPreTraining in PyTorch, as fast as a user can make it.

Scaled dot-product attention, the masked-LM head on the masked positions only, AdamW as one
kernel; `torch.compile` if asked for.
"""

from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.turns import RepeatedStep
from benchmarks.workload import (
    LEARNING_RATE,
    Task,
    check_untrained,
    mask_rows,
    synthetic_batch,
)

_CLIP_NORM, _WEIGHT_DECAY = 1.0, 0.01


class TorchStep(RepeatedStep):
    """Forward and backward pass, clipping and AdamW."""

    def __init__(
        self,
        task: dict[str, Any],
        platform: str,
        dtype: str,
        rows: int,
        compile: bool = False,
    ) -> None:
        """Builds the model and takes two steps.

        Args:
            task: fields of `Task`.
            platform: as JAX names it.
            dtype: "float32" (not TF32), or "bfloat16" by autocast.
            rows: of a batch.
            compile: whether model and loss go through `torch.compile`.

        Raises:
            ValueError: this build of PyTorch cannot use the platform.
        """
        self._task = Task(**task)
        self._device = device_of(platform)
        torch.manual_seed(0)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self._model = make_model(self._task).to(self._device).train()
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(),
            lr=LEARNING_RATE,
            weight_decay=_WEIGHT_DECAY,
            fused=True,
        )
        self._inputs = inputs_of(self._task, rows, self._device)
        self._loss: Any = torch.compile(loss_of) if compile else loss_of
        self._bfloat16 = dtype == "bfloat16"
        self.warm_up()

    def run(self, count: int) -> None:
        for _ in range(count):
            with torch.autocast(
                self._device.type, dtype=torch.bfloat16, enabled=self._bfloat16
            ):
                self._last = self._loss(self._model, self._inputs)
            self._optimizer.zero_grad(set_to_none=True)
            self._last.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), _CLIP_NORM)
            self._optimizer.step()
        wait_for(self._device)

    def check(self) -> None:
        check_untrained(self._last.item(), self._task)


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


def wait_for(device: torch.device) -> None:
    """Returns when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def make_model(task: Task) -> Any:
    """The library's model of the same architecture as ours, with random weights."""
    cfg, dropout = task.model(), task.dropout
    attention: dict[str, Any] = {"attn_implementation": "sdpa"}
    return transformers.BertForPreTraining(
        transformers.BertConfig(
            **attention,
            vocab_size=cfg.vocab_size,
            hidden_size=cfg.hidden_size,
            num_hidden_layers=cfg.num_layers,
            num_attention_heads=cfg.num_heads,
            intermediate_size=cfg.mlp_size,
            max_position_embeddings=cfg.max_positions,
            type_vocab_size=cfg.num_segments,
            hidden_dropout_prob=dropout.hidden,
            attention_probs_dropout_prob=dropout.attention,
            layer_norm_eps=cfg.layer_norm_eps,
            hidden_act={"tanh": "gelu_new", "exact": "gelu"}[cfg.gelu],
        )
    )


def inputs_of(task: Task, rows: int, device: torch.device) -> dict[str, torch.Tensor]:
    """The rows that ours trains on, masked once.

    Packed rows have a mask [B, 1, T, T] in place of [B, T], which keeps their sequences
    apart; the library takes it as it is.
    """
    batch = synthetic_batch(task, rows)
    masked = mask_rows(task, batch)
    mask: np.ndarray = np.ones_like(batch.input_ids)
    if task.packed:
        mask = (batch.sequence_ids[:, :, None] == batch.sequence_ids[:, None])[:, None]
    arrays: dict[str, Any] = {
        "input_ids": masked.input_ids,
        "token_type_ids": batch.segment_ids,
        "position_ids": batch.position_ids,
        "attention_mask": mask,
        "slots": masked.positions,
        "labels": masked.labels,
        "cls_positions": batch.cls_positions,
        "next_labels": batch.nsp_labels,
    }
    tensors = {name: torch.from_numpy(x) for name, x in arrays.items()}
    return {
        name: (x if x.dtype == torch.bool else x.long()).to(device)
        for name, x in tensors.items()
    }


def loss_of(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean masked-LM loss plus the mean next-sentence loss, in nats.

    The library's own loss makes logits of every token, and takes one sequence a row;
    this one makes logits of the masked positions, and takes packed rows too.
    """
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
    masked = cross_entropy(logits_BMV.flatten(0, 1), inputs["labels"].flatten())
    return masked + cross_entropy(next_logits_RC, inputs["next_labels"].flatten())
