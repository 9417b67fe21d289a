"""Names and layouts of other libraries."""
