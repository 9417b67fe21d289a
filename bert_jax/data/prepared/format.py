"""Names and numbers that writers and readers of a prepared dataset agree on."""

# Raise it when the files change so that older versions cannot read them.
FORMAT_VERSION = 3
MANIFEST = "manifest.json"
"""Written last; it names every shard file with its hash."""
TFDS_METADATA = ("dataset_info.json", "features.json")
"""What TFDS needs to open the shards."""
TOKENIZER = "tokenizer"
"""Folder of the tokenizer that the dataset was prepared with."""
SIDE_FILES = "shards"
"""Folder of what `prepare` found in each shard: counts, and hashes of the documents."""
DATASET_NAME = "documents"
"""How the names of shard files begin."""
SPLITS = ("train", "validation")
