"""Sources of text: from files, archives, Parquet and TFDS to clean documents."""
