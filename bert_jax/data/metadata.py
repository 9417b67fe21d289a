"""The files that make a folder of shards a TFDS dataset."""

import pathlib
from collections.abc import Mapping, Sequence

from bert_jax.data.records import DATASET_NAME, features

_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def write_tfds_metadata(
    output: pathlib.Path, vocab_size: int, shard_lengths: Mapping[str, Sequence[int]]
) -> None:
    """Writes dataset_info.json and features.json.

    Args:
        output: folder of the finished shards.
        vocab_size: decides the type of ids.
        shard_lengths: of each split, the documents of each shard.
    """
    import tensorflow_datasets as tfds

    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=list(lengths),
            num_bytes=sum(
                path.stat().st_size
                for path in output.glob(f"{DATASET_NAME}-{split}.array_record-*")
            ),
            filename_template=tfds.core.ShardedFileTemplate(
                template=_TEMPLATE,
                dataset_name=DATASET_NAME,
                data_dir=str(output),
                filetype_suffix="array_record",
                split=split,
            ),
        )
        for split, lengths in shard_lengths.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=str(output),
        features=features(vocab_size),
        split_infos=infos,
        filename_template=_TEMPLATE,
        check_data=False,
        description="Tokenised documents with the bounds of their sentences.",
    )
