"""The parallel section: how ranks are laid out."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Megatron-core's parallel axes; data parallelism takes what is left of the world size."""

    tensor_model_parallel_size: int = 1
    """Ranks that split each layer."""

    pipeline_model_parallel_size: int = 1
    """Ranks that split the stack of layers."""

    virtual_pipeline_model_parallel_size: int | None = None
    """Model chunks a pipeline rank (interleaved schedule); none = plain 1F1B."""

    sequence_parallel: bool = False
    """Split activations along the sequence between tensor-parallel regions; needs tensor parallelism."""

    context_parallel_size: int = 1
    """Ranks that split each sequence; for the pretrain stage."""

    use_distributed_optimizer: bool = False
    """Shard optimizer states over data-parallel ranks (ZeRO-1)."""

    overlap_grad_reduce: bool | None = None
    """Reduce gradients while the backward pass runs; none = on cuda with several data-parallel ranks."""

    overlap_param_gather: bool | None = None
    """Gather the distributed optimizer's parameters while the forward pass runs; none = where overlap_grad_reduce is on
    and the distributed optimizer is used."""

    ddp_bucket_size: int | None = None
    """Parameters of a bucket whose gradients overlap_grad_reduce reduces at once; none = 40,000,000, or 1,000,000 a
    data-parallel rank where that is more (as Megatron-LM's ddp-bucket-size)."""

    distributed_timeout_minutes: float = 30.0
    """Minutes that a rank waits for another before it ends with an error; building an index must not take longer."""
