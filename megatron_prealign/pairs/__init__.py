"""Words and their translations as batches of an alignment loss."""
