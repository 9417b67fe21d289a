"""A plain fine-tuning loop of transformers and PyTorch, the peer of `benchmarks.finetune`."""

import json
import pathlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers


def main(cfg: dict[str, Any]) -> None:
    """Trains and judges a classifier; writes its accuracy to `output`."""
    transformers.set_seed(cfg["seed"])
    given = json.loads(pathlib.Path(cfg["examples"]).read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(cfg["model"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        cfg["model"], num_labels=len(given["labels"]), attn_implementation="sdpa"
    ).to(device)
    train, dev = (encoded(tokenizer, given[x], cfg) for x in ("train", "dev"))
    num_steps = cfg["num_epochs"] * -(-len(train) // cfg["batch_size"])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=cfg["learning_rate"], weight_decay=0.01, fused=True
    )
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, num_steps // 10, num_steps
    )
    order = random.Random(cfg["seed"])
    model.train()
    for _ in range(cfg["num_epochs"]):
        numbers = list(range(len(train)))
        order.shuffle(numbers)
        for batch in batches(tokenizer, train, numbers, cfg["batch_size"]):
            loss = model(**batch.to(device)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
    # Sorted by length, as a careful user would: the padding is least.
    numbers = sorted(range(len(dev)), key=lambda n: len(dev[n]["input_ids"]))
    right = []
    with torch.inference_mode():
        for batch in batches(tokenizer, dev, numbers, cfg["batch_size"]):
            labels = batch.pop("labels")
            found = model(**batch.to(device)).logits.argmax(dim=-1).cpu()
            right.append((found == labels).numpy())
    accuracy = float(np.concatenate(right).mean())
    pathlib.Path(cfg["output"]).write_text(json.dumps({"accuracy": accuracy}))


def encoded(tokenizer: Any, examples: list[Any], cfg: dict[str, Any]) -> list[Any]:
    """Token ids and label of each example."""
    texts = [[example[n] for example in examples] for n in range(len(examples[0]) - 1)]
    found = tokenizer(*texts, truncation=True, max_length=cfg["sequence_length"])
    return [
        {**{key: found[key][n] for key in found}, "labels": example[-1]}
        for n, example in enumerate(examples)
    ]


def batches(
    tokenizer: Any, rows: list[Any], numbers: list[int], batch_size: int
) -> Iterator[Any]:
    """Batches that are padded to their longest row."""
    collate = transformers.DataCollatorWithPadding(tokenizer)
    for start in range(0, len(numbers), batch_size):
        yield collate([rows[n] for n in numbers[start : start + batch_size]])


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main(json.loads(sys.argv[1]))
