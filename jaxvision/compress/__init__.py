"""A model made into another model: which channels belong together, cutting and growing them, and pruning by papers."""
