"""The ways that benchmarks/step.py compares, each a process of its own, so that its peak memory is its own.

    python -m benchmarks.step_ways ours|bare|huggingface FOLDER THREADS

takes its turns on standard input, a number of steps a line, and answers each with a line of JSON. The first step of a
turn is not timed: while the others had theirs, the system may have put this process's memory aside.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from megatron_prealign.config import Config, OptimizerConfig

Step = Callable[[dict[str, torch.Tensor]], torch.Tensor]
CONFIG, BATCHES, WEIGHTS = "config.yaml", "batches.safetensors", "huggingface"


def answer(seconds: float, loss: float, waited: float = 0.0) -> None:
    """Report a turn: seconds of its timed steps, mean loss of all, seconds waited for data, and the peak so far."""
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "loss": loss, "waited": waited, "peak_bytes": peak_bytes}), flush=True)


def serve(step: Callable[[dict[str, torch.Tensor]], float], folder: Path) -> None:
    """Take turns of a plain loop: `step` trains on one batch, read before the clock runs, and returns its loss."""
    from safetensors.torch import load_file

    stored = load_file(folder / BATCHES)
    position = 0
    for line in sys.stdin:
        turn = [
            {name: tensor[index] for name, tensor in stored.items()} for index in range(position, position + int(line))
        ]
        position += len(turn)
        losses = [step(turn[0])]
        started = time.perf_counter()
        losses += [step(batch) for batch in turn[1:]]
        answer(time.perf_counter() - started, sum(losses) / len(losses))


class TurnTaking:
    """A stage that draws its passes only when it is this way's turn."""

    def __init__(self, stage: Any) -> None:
        self._stage = stage
        self._left = self._turn = self._started = self._waited = self._loss = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def next_passes(self, state: Any) -> Any:
        """Draw the passes of the next step; the time it takes is what the step waits for data."""
        self._note_loss()
        if self._left == 0:
            if self._turn:
                answer(time.perf_counter() - self._started, self._loss / self._turn, self._waited)
            line = sys.stdin.readline()
            if not line:
                raise SystemExit
            self._left = self._turn = int(line)
            self._loss = 0.0
        elif self._left == self._turn - 1:
            self._waited, self._started = 0.0, time.perf_counter()
        self._left -= 1
        begun = time.perf_counter()
        passes = self._stage.next_passes(state)
        self._waited += time.perf_counter() - begun
        return passes

    def take_metrics(self) -> dict[str, Any]:
        """Return the stage's metrics."""
        self._note_loss()
        metrics: dict[str, Any] = self._stage.take_metrics()
        return metrics

    def _note_loss(self) -> None:
        """Add the loss of the last step, unless a record has taken it already."""
        total, count = self._stage.step_sums().sum(dim=0).tolist()
        if count:
            self._loss += total / count


def ours(folder: Path) -> None:
    """Run the loop as it is: records, invariants, learning-rate schedule and all."""
    from megatron_prealign.config import load_resolved
    from megatron_prealign.platform import initialize_distributed, initialize_model_parallel, select_platform
    from megatron_prealign.training.setup import build_trainer, plan_run

    plan = plan_run(load_resolved(folder / CONFIG))
    platform = select_platform("cpu")
    initialize_distributed(platform)
    mesh = initialize_model_parallel(plan.config.parallel, plan.config.training.seed)
    trainer = build_trainer(plan, platform, mesh)
    trainer.stage = TurnTaking(trainer.stage)  # type: ignore[assignment]
    trainer.train()


def bare(folder: Path) -> None:
    """Run megatron-core's schedule and optimizer on the same model, and nothing else."""
    from megatron_prealign.config import load_resolved
    from megatron_prealign.platform import initialize_distributed, initialize_model_parallel, select_platform

    config = load_resolved(folder / CONFIG)
    platform = select_platform("cpu")
    initialize_distributed(platform)
    initialize_model_parallel(config.parallel, config.training.seed)
    step = make_bare_step(config, platform.device)
    serve(lambda batch: float(step(batch)), folder)


def huggingface(folder: Path) -> None:
    """Run LlamaForCausalLM with its own loss and torch's AdamW."""
    from transformers import LlamaForCausalLM

    from megatron_prealign.config import load_resolved

    model = LlamaForCausalLM.from_pretrained(folder / WEIGHTS, dtype=torch.float32, attn_implementation="sdpa")
    step = make_huggingface_step(model, load_resolved(folder / CONFIG).optimizer)
    serve(lambda batch: float(step(batch)), folder)


def make_bare_step(config: "Config", device: torch.device) -> Step:
    """Build a model and its optimizer for megatron-core's schedule; return its step, which returns the loss."""
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.utils import get_model_config

    from megatron_prealign.model import build_model_chunks
    from megatron_prealign.training.optimizer import build_optimizer, build_schedule

    (chunk,) = build_model_chunks(config, device)
    sums = DistributedDataParallelConfig(grad_reduce_in_fp32=True)
    model = DistributedDataParallel(get_model_config(chunk), sums, chunk)
    get_model_config(model).finalize_model_grads_func = finalize_model_grads
    optimizer = build_optimizer([model], config)
    schedule = build_schedule(optimizer, config)  # also says which parameters have no weight decay
    run = get_forward_backward_func()

    def forward_step(batches: Any, module: torch.nn.Module) -> Any:
        batch = next(batches)
        losses = module(batch["tokens"], batch["position_ids"], None, labels=batch["labels"])

        def loss(losses: torch.Tensor) -> Any:
            mean = (losses * batch["loss_mask"]).sum() / batch["loss_mask"].sum()
            return mean, {"loss": mean.detach()}

        return losses, loss

    def step(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        model.zero_grad_buffer()
        optimizer.zero_grad()
        (reduced,) = run(
            forward_step_func=forward_step,
            data_iterator=iter([batch]),
            model=model,
            num_microbatches=1,
            seq_length=config.data.seq_length,
            micro_batch_size=config.training.micro_batch_size,
        )
        optimizer.step()
        schedule.step(1)
        mean: torch.Tensor = reduced["loss"]
        return mean

    return step


def make_huggingface_step(model: Any, optimizer_config: "OptimizerConfig") -> Step:
    """Return a step of a Hugging Face model with torch's fused AdamW, which returns the loss."""
    model.train()
    # No weight decay for norms, as in Hugging Face's Trainer and in Megatron.
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in model.parameters() if parameter.dim() > 1]},
        {"params": [parameter for parameter in model.parameters() if parameter.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=optimizer_config.lr,
        betas=(optimizer_config.adam_beta1, optimizer_config.adam_beta2),
        eps=optimizer_config.adam_eps,
        weight_decay=optimizer_config.weight_decay,
        fused=True,
    )

    def step(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        labels = batch["labels"].where(batch["loss_mask"] > 0, -100)
        loss: Any = model(input_ids=batch["tokens"], labels=labels, shift_labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer_config.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        value: torch.Tensor = loss.detach()
        return value

    return step


WAYS = {"ours": ours, "bare": bare, "huggingface": huggingface}

if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    WAYS[sys.argv[1]](Path(sys.argv[2]))
