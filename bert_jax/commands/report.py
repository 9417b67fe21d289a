"""The `report` command."""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Writes one self-contained HTML page, and PNGs, about runs of any task or a dataset.

    For example: `bert-jax report --output report --pretrain encoder --finetune tuned`.
    """

    output: pathlib.Path
    """Directory to write: report.html, and a PNG of each chart."""
    pretrain: pathlib.Path | None = None
    """Run directory of `pretrain`. A run that is still going is shown as far as it is."""
    finetune: tuple[pathlib.Path, ...] = ()
    """Run directories of `finetune`. Those of one task and one held-out file are compared."""
    baselines: pathlib.Path | None = None
    """Directory that `bert-jax baselines` has written, to compare with."""
    dataset: pathlib.Path | None = None
    """Directory that `bert-jax prepare` has written. A finished run of --pretrain shows its
    own dataset without it."""
    reference: tuple[pathlib.Path, ...] = ()
    """Other runs of `pretrain`, whose curves are drawn beside those of --pretrain: run
    directories, or .csv files with columns such as kind, step and mlm_loss."""
    title: str | None = None
    """Heading of the page. By default it speaks of a BERT, or of the text where only a
    dataset is given."""

    def run(self) -> None:
        from bert_jax.data.plural import plural
        from bert_jax.report.page import write_report

        about_runs = self.pretrain or self.finetune or self.baselines
        default = "A BERT of your own" if about_runs else "Text for a BERT of your own"
        written = write_report(
            self.output,
            pretrain=self.pretrain,
            finetunes=self.finetune,
            baselines=self.baselines,
            dataset=self.dataset,
            references=self.reference,
            title=default if self.title is None else self.title,
        )
        print(f"{written[0]} and {plural(len(written) - 1, 'picture')}")
