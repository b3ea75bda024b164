"""Detection: boxes around objects."""
