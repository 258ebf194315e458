"""The arithmetic of a training at scale: tokens, compute, GPU hours, memory of a GPU.

    python examples/recipes/arithmetic.py examples/recipes/paper_150m.yaml --gpus 8

Model states are exact: bf16 weights (2 bytes a parameter), fp32 gradients (4), and fp32 weights and both moments (12),
these last ones shared among data-parallel ranks where the distributed optimizer is on. Activations are Korthikanti et
al.'s 34 bytes x hidden size a token and layer, without the scores that flash attention never keeps (2 bytes under full
recomputation, and one layer's 34), and the logits in bf16, in fp32 and their gradient.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_prealign.command_line import tool
from megatron_prealign.config import PRESETS, Config, count_parameters, load_resolved
from megatron_prealign.config.counts import count_flops_per_token

H100_FLOPS = 989e12
LAYER_BYTES, KEPT_BYTES = 34, 2
LOGIT_BYTES = 2 + 4 + 4


@dataclass(frozen=True)
class Arithmetic:
    """What a configuration costs on a number of GPUs."""

    config: Config
    gpus: int
    mfu: float
    """Share of the peak that the model's own operations reach; an assumption, see docs/gpu-checklist.md."""

    @property
    def tokens(self) -> int:
        """Tokens of all steps."""
        training = self.config.training
        return training.train_steps * training.global_batch_size * self.config.data.seq_length

    @property
    def parameters(self) -> int:
        """Parameters with embeddings."""
        return count_parameters(self.config.model, self._vocab_size)

    @property
    def flops(self) -> float:
        """Operations of the whole training."""
        model = replace(self.config.model, vocab_size=self._vocab_size)
        return float(self.tokens) * count_flops_per_token(model, self.config.data.seq_length)

    @property
    def gpu_hours(self) -> float:
        """Hours of one H100 times GPUs."""
        return self.flops / (H100_FLOPS * self.mfu) / 3600

    @property
    def state_bytes(self) -> float:
        """Bytes of weights, gradients and optimizer on one GPU."""
        parallel = self.config.parallel
        split = parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
        shared = self.gpus // split if parallel.use_distributed_optimizer else 1
        return self.parameters / split * (6 + 12 / shared)

    @property
    def activation_bytes(self) -> float:
        """Bytes of activations on the GPU that has most: the first pipeline stage keeps a microbatch a stage."""
        config, model = self.config, self.config.model
        tensor, pipeline = config.parallel.tensor_model_parallel_size, config.parallel.pipeline_model_parallel_size
        tokens = config.training.micro_batch_size * config.data.seq_length
        layers = model.num_layers  # layers / pipeline of each of `pipeline` microbatches in flight
        if config.training.recompute == "full":
            layer = tokens * model.hidden_size * (layers * KEPT_BYTES + LAYER_BYTES)
        else:
            layer = tokens * model.hidden_size * layers * LAYER_BYTES
        logits = tokens * self._vocab_size * LOGIT_BYTES if pipeline == 1 else 0
        return (layer + logits) / tensor

    @property
    def _vocab_size(self) -> int:
        model = self.config.model
        return model.vocab_size or PRESETS[model.preset or "tiny"].vocab_size

    def lines(self) -> list[str]:
        """Return the arithmetic as lines of text."""
        training, gigabyte = self.config.training, 1e9
        batch = f"{training.global_batch_size:,} sequences x {self.config.data.seq_length:,}"
        memory = self.state_bytes + self.activation_bytes
        return [
            f"tokens      {self.tokens / 1e9:,.1f} B = {training.train_steps:,} steps x {batch}",
            f"parameters  {self.parameters / 1e6:,.1f} M, {self.tokens / self.parameters:.0f} tokens each",
            f"compute     {self.flops:.2e} FLOP",
            f"time        {self.gpu_hours:,.0f} H100 hours at {self.mfu:.0%} of the peak: "
            f"{self.gpu_hours / self.gpus:,.1f} hours on {self.gpus} GPUs",
            f"memory      {self.state_bytes / gigabyte:.1f} GB states + {self.activation_bytes / gigabyte:.1f} GB "
            f"activations = {memory / gigabyte:.1f} GB a GPU",
        ]


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Print the arithmetic of configurations."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("configs", nargs="+", type=Path, help="YAML files of trainings")
    parser.add_argument("--gpus", type=int, default=8, help="H100s that it runs on")
    parser.add_argument("--mfu", type=float, default=0.35, help="share of the peak, (0, 1]")
    arguments = parser.parse_args(argv)
    for path in arguments.configs:
        config = load_resolved(path)
        print(path)
        print("\n".join(f"  {line}" for line in Arithmetic(config, arguments.gpus, arguments.mfu).lines()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
