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
    numpy = np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)
    words = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    return {
        "python": random.getstate(),
        "numpy": {**numpy, "state": {**numpy["state"], "key": words}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        # What differs between tensor-parallel ranks and what does not.
        "megatron": tensor_parallel.get_cuda_rng_tracker().get_states(),
    }


def set_random_states(states: RandomStates) -> None:
    """Go on where `get_random_states` was called."""
    numpy = states["numpy"]
    words = numpy["state"]["key"].numpy().astype(np.uint32)
    random.setstate(states["python"])
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": words}})
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    tensor_parallel.get_cuda_rng_tracker().set_states(states["megatron"])


def device_of(states: RandomStates) -> str:
    """Return the kind of device whose states they are: those of a CPU's generator are far larger than of a GPU's."""
    sizes = {state.numel() for state in states["megatron"].values()}
    return "cpu" if states["torch"].numel() in sizes else "cuda"
