"""Which library encodes: the tokenizer's own, or the faster gigatoken where it is proved to give the same ids."""

from typing import Literal

import numpy as np

from megatron_prealign.text.encoders import ChunkedEncoder, Encoder, ReferenceEncoder
from megatron_prealign.text.gigatoken_encoder import GigatokenEncoder, unlike_parts
from megatron_prealign.text.probe import probe_texts
from megatron_prealign.text.tokenizer import Tokenizer

Backend = Literal["reference", "gigatoken"]
"""The tokenizer's own library, or gigatoken."""


def make_encoder(tokenizer: Tokenizer, backend: Backend, is_parallel: bool) -> Encoder:
    """Return the encoder of a backend."""
    if backend == "gigatoken":
        return GigatokenEncoder(tokenizer, is_parallel)
    return ChunkedEncoder(tokenizer) if tokenizer.splits_at_spaces else ReferenceEncoder(tokenizer)


def why_not_gigatoken(tokenizer: Tokenizer) -> str | None:
    """Return why gigatoken can't replace a tokenizer's own library, or None if it can.

    It must apply every part of the tokenizer, and give equal ids on a fixed probe; no text of the user decides.
    """
    try:
        encoder = GigatokenEncoder(tokenizer, is_parallel=False)
    except ImportError:
        return "it is not installed"
    except Exception as error:  # the library's own, for unsupported kinds of tokenizers
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return f"it does not support this tokenizer ({reason})"
    if unlike := unlike_parts(encoder.definition):
        return f"it does not apply this tokenizer's {', '.join(unlike)} as the tokenizer's own library does"
    plain = sorted(set(range(tokenizer.vocab_size)) - tokenizer.special_ids)
    texts = list(probe_texts(tokenizer, plain))
    ids, lengths = encoder.encode(texts)
    expected, expected_lengths = ReferenceEncoder(tokenizer).encode(texts)
    if not np.array_equal(lengths, expected_lengths) or not np.array_equal(ids, expected):
        return "its ids differ from the tokenizer's own library on a fixed probe"
    return None
