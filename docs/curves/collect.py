"""Collects the curves of runs: `python docs/curves/collect.py NAME RUN [RUN ...]`.

Writes NAME.csv beside it, which `bert-jax report --reference` reads. The runs differ by their
seeds only. Figures are medians over the runs; of held-out figures the lowest and the highest
stand beside them.
"""

import csv
import pathlib
import statistics
import sys

from bert_jax.report.runs import Log
from bert_jax.train.monitoring.metrics import read_metrics

HERE = pathlib.Path(__file__).parent
JUDGED = ("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy")
LOGGED = (*JUDGED, "grad_norm", "learning_rate")


def main(name: str, *runs: str) -> None:
    paths = [pathlib.Path(run) for run in runs]
    logs = [Log(path=path, lines=read_metrics(path)) for path in paths]
    rows: list[dict[str, str]] = []
    for line in logs[0].lines:
        kind, step = line["kind"], line["step"]
        row = {"kind": kind, "step": str(step)}
        for figure in LOGGED:
            series = [log.series(kind, figure) for log in logs]
            values = [x.values[x.steps.index(step)] for x in series if step in x.steps]
            if len(values) < len(logs):
                continue  # this kind of line, or these runs, do not have it
            row[figure] = f"{statistics.median(values):.5g}"
            if kind == "eval" and len(values) > 1:
                # Exact, so that each of these runs lies within.
                row[f"{figure}_low"] = str(min(values))
                row[f"{figure}_high"] = str(max(values))
        if len(row) > 2:
            rows.append(row)
    ends = ("", "_low", "_high")
    known = ["kind", "step", *(f"{figure}{end}" for figure in LOGGED for end in ends)]
    columns = [column for column in known if any(column in row for row in rows)]
    with (HERE / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
