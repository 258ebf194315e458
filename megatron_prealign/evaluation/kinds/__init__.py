"""The evaluations, one file each; a file placed here is found by its name (docs/evaluation.md)."""
