"""Self-supervised pre-training, one method a file."""
