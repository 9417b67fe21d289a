"""Classification from a BERT-base-sized run, as Devlin et al. 2018, appendix A.3.

    bert-jax finetune --config finetune_classify --checkpoint RUN --output DIR \\
        --task.train train.tsv --task.validation dev.tsv \\
        --task.text-columns sentence --task.label-column label

Hardware: any; one GPU for a base-sized encoder. Not measured yet.
"""

from bert_jax.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig()
