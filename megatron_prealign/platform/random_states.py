"""The random generators of a rank: seeded, read and restored. Dropout alone draws from them."""

from collections.abc import Mapping

import torch
from megatron.core import parallel_state, tensor_parallel
from torch import Tensor

_TRACKER = "tracker."


def seed_random_states(seed: int) -> None:
    """Seed the generators of this rank for its place in the layout; needs megatron-core's process groups."""
    # Dropout differs between pipeline stages and data-parallel ranks, as in Megatron-LM.
    stage = parallel_state.get_pipeline_model_parallel_rank()
    replica = parallel_state.get_data_parallel_rank()
    torch.manual_seed(seed + 100 * stage + 10 * replica)
    tensor_parallel.model_parallel_cuda_manual_seed(seed + 100 * stage + 10 * replica)


def read_random_states() -> dict[str, Tensor]:
    """Return the states of torch's generators and of megatron-core's tracker, uint8 [bytes] each, by name."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    tracked = tensor_parallel.get_cuda_rng_tracker().get_states()
    return states | {_TRACKER + name: state for name, state in tracked.items()}


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Restore what `read_random_states` returned."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
    tracked = {name.removeprefix(_TRACKER): state for name, state in states.items() if name.startswith(_TRACKER)}
    tensor_parallel.get_cuda_rng_tracker().set_states(tracked)
