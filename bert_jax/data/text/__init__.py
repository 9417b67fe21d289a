"""Reads clean documents from files, archives, Parquet, TFDS and installed packages."""
