"""The train step compiled for machines that are not here, and what that tells."""
