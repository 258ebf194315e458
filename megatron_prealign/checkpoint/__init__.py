"""Checkpoints: sharded ones of a run, and Hugging Face folders."""
