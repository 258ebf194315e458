"""Environment variables for GPUs, which torch and the CUDA driver read when they start; the user's own values stay."""

import os

from megatron_prealign.config import Config


def set_gpu_environment(config: Config) -> None:
    """Set what is not set yet; call it before torch is imported."""
    parallel = config.parallel
    variables = {
        # A recording of the last collectives of each rank, written if one times out; docs/operations.md says more.
        "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": os.path.abspath(f"{config.training.run_path}/nccl_trace_rank_"),
    }
    if "PYTORCH_ALLOC_CONF" not in os.environ:
        # Word passes have other shapes in each step: without it memory is cut into pieces that fit none.
        variables["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    if max(parallel.tensor_model_parallel_size, parallel.context_parallel_size) > 1:
        # Their overlap of communication with computation relies on the order of a single queue.
        variables["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    for name, value in variables.items():
        os.environ.setdefault(name, value)
