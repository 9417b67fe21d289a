"""What baselines of tasks over whole texts share: words and pairs of words as features."""

from typing import Any

from bert_jax.data.labelled.texts import LabelledTexts


def tfidf(train: LabelledTexts, held_out: LabelledTexts) -> tuple[Any, Any]:
    """Sparse TF-IDF features of both, fitted on `train`, with sublinear counts.

    The two texts of a pair are one text here.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    parts = [[" ".join(text) for text in part.texts] for part in (train, held_out)]
    return vectorizer.fit_transform(parts[0]), vectorizer.transform(parts[1])
