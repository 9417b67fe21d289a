"""The two JSON files that turn a folder of shards into a TFDS dataset."""

from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax.data.atomic_file import AnyPath
from bert_jax.data.prepared.format import DATASET_NAME
from bert_jax.data.prepared.records import features
from bert_jax.data.prepared.shards import ShardFile

_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def file_names(output: AnyPath, split: str) -> Any:
    """TFDS's template for the names of a split's shards."""
    import tensorflow_datasets as tfds

    return tfds.core.ShardedFileTemplate(
        template=_TEMPLATE,
        dataset_name=DATASET_NAME,
        data_dir=str(output),
        filetype_suffix="array_record",
        split=split,
    )


def write_tfds_metadata(
    output: AnyPath, vocab_size: int, files: Mapping[str, Sequence[ShardFile]]
) -> None:
    """Writes dataset_info.json and features.json.

    Args:
        output: folder of the finished shards.
        vocab_size: number of token ids; it decides their type.
        files: split -> its files in the order of the shards.
    """
    import tensorflow_datasets as tfds

    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[file.num_documents for file in files[split]],
            num_bytes=sum(file.size_bytes for file in files[split]),
            filename_template=file_names(output, split),
        )
        for split in files
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=str(output),
        features=features(vocab_size),
        split_infos=infos,
        filename_template=_TEMPLATE,
        check_data=False,
        description="Tokenised documents with the bounds of their sentences.",
    )
