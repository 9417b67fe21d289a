"""Classification from a BERT-base-sized run, as Devlin et al. 2018, appendix A.3.

    bert-jax finetune RUN --output DIR \\
        --train train.tsv --dev dev.tsv \\
        --text sentence --label label

Hardware: any; one GPU for a base-sized encoder. Not measured yet.
"""

from bert_jax.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig()
