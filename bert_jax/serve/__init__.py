"""A run as a service: an HTTP interface, and a page to try the model in a browser."""
