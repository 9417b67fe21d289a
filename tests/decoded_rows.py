"""Rows of a batch read back, token by token, into the pairs that they hold."""

from bert_jax.batch import PretrainBatch, SpecialIds


def decode(
    batch: PretrainBatch, row: int, special: SpecialIds
) -> list[list[list[int]]]:
    """Ids of A, and of B if there is one, of every pair of a row.

    Walks over the tokens one by one and asserts that each belongs where it stands.
    """
    found = []
    ids = batch.input_ids[row].tolist()
    at = 0
    while at < len(ids) and batch.sequence_ids[row, at]:
        start, place = at, len(found)
        assert ids[at] == special.cls
        assert batch.cls_positions[row, place] == start
        parts, part = [], []
        while at < len(ids) and batch.sequence_ids[row, at] == place + 1:
            assert batch.position_ids[row, at] == at - start
            assert batch.segment_ids[row, at] == len(parts)
            if ids[at] == special.sep:
                parts.append(part)
                part = []
            elif at > start:
                part.append(ids[at])
            at += 1
        assert part == [], "no [SEP] at the end"
        found.append(parts)
    for name in ("sequence_ids", "position_ids", "segment_ids"):
        assert not getattr(batch, name)[row, at:].any(), name
    assert (batch.input_ids[row, at:] == special.pad).all()
    return found
