"""The states of all random generators of this process: what dropout draws from, and whatever else draws."""

import random
from typing import Any

import numpy as np
import torch
from megatron.core import tensor_parallel

RandomStates = dict[str, Any]
"""Plain values and tensors, by generator."""


def get_random_states() -> RandomStates:
    """Return the states of Python's, numpy's, torch's and megatron-core's generators."""
    name, words, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(words.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        # What differs between tensor-parallel ranks and what does not.
        "megatron": tensor_parallel.get_cuda_rng_tracker().get_states(),
    }


def set_random_states(states: RandomStates) -> None:
    """Go on where `get_random_states` was called."""
    name, words, *rest = states["numpy"]
    random.setstate(states["python"])
    np.random.set_state((name, words.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    tensor_parallel.get_cuda_rng_tracker().set_states(states["megatron"])
