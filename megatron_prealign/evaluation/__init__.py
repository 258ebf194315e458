"""Evaluations of Hugging Face folders, and reports over their results."""
