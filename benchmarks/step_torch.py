"""The train step of Hugging Face's BERT or ModernBERT in PyTorch, as fast as a user can make it.

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
    SPECIAL,
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
    sizes: dict[str, Any] = {
        "attn_implementation": "sdpa",
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.hidden_size,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "intermediate_size": cfg.mlp_size,
        "max_position_embeddings": cfg.max_positions,
    }
    if task.modern:
        # The library's other defaults are those of Warner et al. 2024.
        config = transformers.ModernBertConfig(
            **sizes,
            pad_token_id=SPECIAL.pad,
            bos_token_id=SPECIAL.cls,
            cls_token_id=SPECIAL.cls,
            eos_token_id=SPECIAL.sep,
            sep_token_id=SPECIAL.sep,
        )
        return transformers.ModernBertForMaskedLM(config)
    return transformers.BertForPreTraining(
        transformers.BertConfig(
            **sizes,
            type_vocab_size=cfg.num_segments,
            hidden_dropout_prob=dropout.hidden,
            attention_probs_dropout_prob=dropout.attention,
            layer_norm_eps=cfg.layer_norm_eps,
            hidden_act={"tanh": "gelu_new", "exact": "gelu"}[cfg.gelu],
        )
    )


def inputs_of(task: Task, rows: int, device: torch.device) -> dict[str, Any]:
    """The rows that ours trains on, masked once, as arguments of `loss_of`.

    Packed rows have masks [B, 1, T, T] in place of [B, T], which keep their sequences
    apart; the libraries take them as they are.
    """
    batch = synthetic_batch(task, rows)
    masked = mask_rows(task, batch)

    def tensor(array: np.ndarray) -> torch.Tensor:
        one = torch.from_numpy(array)
        return (one if one.dtype == torch.bool else one.long()).to(device)

    mask: np.ndarray = np.ones_like(batch.input_ids)
    if task.packed:
        mask = (batch.sequence_ids[:, :, None] == batch.sequence_ids[:, None])[:, None]
    encoder: dict[str, Any] = {
        "input_ids": tensor(masked.input_ids),
        "attention_mask": tensor(mask),
        "position_ids": tensor(batch.position_ids),
    }
    inputs = {
        "encoder": encoder,
        "slots": tensor(masked.positions),
        "labels": tensor(masked.labels),
    }
    if task.modern:
        if (window := task.model().local_window) is not None and task.packed:
            places = np.arange(task.length)
            near = np.abs(places[:, None] - places) <= window // 2
            encoder["attention_mask"] = {
                "full_attention": encoder["attention_mask"],
                "sliding_attention": tensor(mask & near),
            }
        return inputs
    encoder["token_type_ids"] = tensor(batch.segment_ids)
    return inputs | {
        "cls_positions": tensor(batch.cls_positions),
        "next_labels": tensor(batch.nsp_labels),
    }


def loss_of(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The mean masked-LM loss, for BERT plus the mean next-sentence loss, in nats.

    The library's own loss of BERT makes logits of every token, and takes one sequence a
    row; this one makes logits of the masked positions, and takes packed rows too.
    """
    hidden_BTD = model.base_model(**inputs["encoder"])[0]

    def at(positions_BN: torch.Tensor) -> torch.Tensor:
        index = positions_BN[:, :, None].expand(-1, -1, hidden_BTD.shape[-1])
        return torch.gather(hidden_BTD, 1, index)

    cross_entropy = torch.nn.functional.cross_entropy
    labels = inputs["labels"].flatten()
    if "next_labels" not in inputs:
        logits_BMV = model.decoder(model.head(at(inputs["slots"])))
        return cross_entropy(logits_BMV.flatten(0, 1), labels)
    # The library's pooler takes the first token of what it is given.
    cls_RD = at(inputs["cls_positions"]).flatten(0, 1)
    pooled_RD = model.base_model.pooler(cls_RD[:, None])
    logits_BMV, next_logits_RC = model.cls(at(inputs["slots"]), pooled_RD)
    masked = cross_entropy(logits_BMV.flatten(0, 1), labels)
    return masked + cross_entropy(next_logits_RC, inputs["next_labels"].flatten())
