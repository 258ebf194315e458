"""All generators go on where their states were taken, also after a round through a file that holds plain values."""

import io
import random
from typing import Any

import numpy as np
import torch
from megatron.core import tensor_parallel

from megatron_prealign.config import ParallelConfig
from megatron_prealign.platform import initialize_distributed, initialize_model_parallel, select_platform
from megatron_prealign.platform.distributed import get_random_states, set_random_states
from megatron_prealign.testing import run_distributed


def _draw() -> list[float]:
    tracker = tensor_parallel.get_cuda_rng_tracker()
    with tracker.fork():
        tracked = float(torch.rand(()))
    # An odd number of normal draws leaves one in numpy's state.
    return [random.gauss(0, 1), float(np.random.normal()), float(np.random.rand()), float(torch.rand(())), tracked]


def _draw_again() -> Any:
    initialize_distributed(select_platform("cpu"))
    initialize_model_parallel(ParallelConfig(), 1)
    _draw()
    file = io.BytesIO()
    torch.save(get_random_states(), file)
    first, second = _draw(), _draw()
    file.seek(0)
    set_random_states(torch.load(file, weights_only=True))
    return first, second, _draw(), _draw()


def test_all_generators_go_on() -> None:
    first, second, *again = run_distributed(_draw_again, 1)[0]
    assert all(one != other for one, other in zip(first, second, strict=True))
    assert again == [first, second]


def _first_draws(seed: int) -> list[float]:
    initialize_distributed(select_platform("cpu"))
    initialize_model_parallel(ParallelConfig(), seed)
    return _draw()


def test_the_seed_sets_every_generator() -> None:
    first, again, other = (run_distributed(_first_draws, 1, seed)[0] for seed in (2**33 + 1, 2**33 + 1, 2))
    assert first == again
    assert all(one != another for one, another in zip(first, other, strict=True))
