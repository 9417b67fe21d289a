"""Model families of other libraries: their configs, and the names of their tensors."""
