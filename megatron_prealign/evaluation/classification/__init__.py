"""Zero-shot cross-lingual transfer: labelled texts, and fine-tuning on them."""
