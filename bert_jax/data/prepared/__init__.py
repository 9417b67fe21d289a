"""Prepared datasets: how they are written, checked and opened.

Three words name what text passes through on its way into a dataset:

    section    a contiguous stretch of a source that is read on its own: a whole file, or a
               range of its bytes, archive members, row groups or records
               (`bert_jax.data.text.sections`)
    shard      a numbered part of the dataset: one process reads a few neighbouring
               sections and writes one ArrayRecord file for each split (`shards`)
    fragment   one of several documents that a document of more than
               `max_document_bytes` is cut into (`bert_jax.data.text.splitting`)

A "piece" is always an entry of a tokenizer's vocabulary, and a "part" is always one of
the equal parts of a batch that hosts load (`bert_jax.data.batches.rows`).
"""
