"""Tasks that write texts, and what they share: vocabularies, edit distances, figures of merit."""
