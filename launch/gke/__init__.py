"""A job on Google Kubernetes Engine: a JobSet of TPU slices or of GPU nodes."""
