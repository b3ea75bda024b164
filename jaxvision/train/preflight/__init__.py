"""What a run would do on a machine that is not there: compiled ahead for its topology, from shapes alone."""
