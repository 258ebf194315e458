"""The training loop of both stages.

A step takes its passes from the stage's objectives, runs each through megatron-core's schedule, reduces the summed
gradients once, and updates. Records, validations and checkpoints happen at their intervals.
"""

import contextlib
import gc
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.utils import get_model_config

from megatron_prealign.checkpoint.folder import agree_on_checkpoint
from megatron_prealign.checkpoint.sharded import load_training_state, save_checkpoint
from megatron_prealign.config import Config
from megatron_prealign.platform import Platform
from megatron_prealign.platform.agreement import max_over_ranks
from megatron_prealign.training.guards import DivergenceError, Guard
from megatron_prealign.training.interruption import Interruption, signals_held
from megatron_prealign.training.invariants import check_batches, check_gradients, check_replicas
from megatron_prealign.training.metrics import MetricsWriter
from megatron_prealign.training.norms import parameter_norm
from megatron_prealign.training.objectives.objective import Pass
from megatron_prealign.training.objectives.stage import Stage
from megatron_prealign.training.optimizer import build_schedule, gather_parameters
from megatron_prealign.training.state import TrainState, has_lost_patience
from megatron_prealign.training.throughput import ProfileWindow, Throughput
from megatron_prealign.training.validation import Validator, WordValidator, held_out_retrieval


@contextlib.contextmanager
def _collector(*, paused: bool) -> Iterator[None]:
    """Keep Python's garbage collector from running by itself; what exists already is never scanned again."""
    if not paused:
        yield
        return
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@dataclass
class Trainer:
    """Everything a run consists of, and its loop."""

    config: Config
    platform: Platform
    chunks: list[torch.nn.Module]
    optimizer: MegatronOptimizer
    schedule: OptimizerParamScheduler
    stage: Stage
    validator: Validator | None
    word_validator: WordValidator | None
    metrics: MetricsWriter | None
    throughput: Throughput
    profile: ProfileWindow
    interruption: Interruption
    guard: Guard
    tokenizer_path: Path
    state: TrainState = field(default_factory=TrainState)
    _saved_step: int = 0
    _recorded_step: int = 0

    def train(self) -> str:
        """Train to the last step, until held-out retrieval stops rising, or until an interruption; then save.

        Returns:
            What interrupted the run; empty if it is done.
        """
        training, logging = self.config.training, self.config.logging
        self._saved_step = self._recorded_step = self.state.step
        gradient_norm: float | None = None
        self.throughput.start(self.state)
        self.interruption.agreed(self.platform.device)
        with _collector(paused=training.manual_gc_interval > 0):
            while not self.is_done and not self.interruption.cause:
                self.profile.before_step(self.state.step + 1)
                gradient_norm = self.train_step()
                self.profile.after_step(self.state.step)
                if self.metrics is not None:
                    self.metrics.advance(self.state.step)
                if self._is_due(logging.log_interval):
                    self._record(gradient_norm)
                with self.throughput.pause.running():
                    if self._is_due(training.eval_interval):
                        self._validate()
                    if self._is_due(self.config.checkpoint.save_interval):
                        self.save()
                if self._is_due(training.manual_gc_interval):
                    gc.collect()
        self.profile.close()
        if self._recorded_step < self.state.step:
            self._record(gradient_norm)
        if self._saved_step < self.state.step:
            self.save()
        if self.metrics is not None:
            self.metrics.close()
        return self.interruption.cause

    @property
    def is_done(self) -> bool:
        """Whether no step is left, or held-out retrieval has not risen for `alignment.patience` validations."""
        return self.state.step >= self.config.training.train_steps or has_lost_patience(self.config, self.state)

    def train_step(self) -> float | None:
        """Take one optimizer step; return the global gradient norm before clipping, None if the step was skipped.

        Raises:
            DivergenceError: Too many steps were skipped; the weights are unchanged.
        """
        before = replace(self.state)
        self.compute_gradients()
        verdict = self.guard.judge(self.chunks, self.optimizer, self.stage, before, self.state)
        if verdict == "apply":
            if self._checks_step() and self.stage.reaches_all_parameters(self.state.step):
                check_gradients(self.chunks)
            return self.update()
        self._advance()
        if verdict == "rewind":
            self.rewind()
        return None

    def rewind(self) -> None:
        """Load weights and optimizer of the run's newest checkpoint, if there is one; collective.

        The position in the data and the random states stay: the data of the checkpoint is not read again.
        """
        checkpoint = agree_on_checkpoint(self.config.training.run_path, self.config.checkpoint.verify)
        if checkpoint is None:
            self._say(
                f"step {self.state.step}: no checkpoint to return to, so the weights are kept; the data continues"
            )
            return
        self._say(f"step {self.state.step}: weights restored from {checkpoint}; the data continues")
        load_training_state(checkpoint, self.chunks, self.optimizer)
        self.state.rewinds += 1
        # The optimizer's learning rates came back too.
        self.schedule = build_schedule(self.optimizer, self.config)
        self.schedule.step(self.state.step)

    def update(self) -> float:
        """Update the parameters from the gradients in the buffers; return their norm before clipping.

        If fp16 overflowed, the norm is infinite: the optimizer skips the step and lowers the loss scale.
        """
        is_updated, gradient_norm, _ = self.optimizer.step()
        self.state.skipped_steps += not is_updated
        self._advance()
        return math.inf if gradient_norm is None else float(gradient_norm)

    def _advance(self) -> None:
        self.schedule.step(1)
        self.state.step += 1

    def compute_gradients(self) -> None:
        """Leave the step's summed and reduced gradients in the buffers."""
        for chunk in self.chunks:
            chunk.zero_grad_buffer()  # type: ignore[operator]
        self.optimizer.zero_grad()
        *first, last = self.stage.next_passes(self.state)
        if self._checks_step():
            check_batches(last.microbatches)
        for one_pass in first:
            self._accumulate(one_pass)
        last.run(self.chunks)

    def _accumulate(self, one_pass: Pass) -> None:
        """Run a pass whose gradients are only added up, not reduced or finalised."""
        config = get_model_config(self.chunks[0])
        finalize, no_sync = config.finalize_model_grads_func, config.no_sync_func
        config.finalize_model_grads_func, config.no_sync_func = None, contextlib.nullcontext
        with contextlib.ExitStack() as stack:
            for chunk in self.chunks:
                stack.enter_context(chunk.no_sync())  # type: ignore[operator]
            one_pass.run(self.chunks)
        config.finalize_model_grads_func, config.no_sync_func = finalize, no_sync

    def _checks_step(self) -> bool:
        """Return whether to check the invariants of the current step: it will be recorded."""
        return self.config.training.check_invariants and (self.state.step + 1) % self.config.logging.log_interval == 0

    def _is_due(self, interval: int) -> bool:
        step = self.state.step
        return interval > 0 and (step % interval == 0 or step == self.config.training.train_steps)

    def _record(self, gradient_norm: float | None) -> None:
        self.platform.synchronize()
        self._recorded_step = self.state.step
        speed = self.throughput.take(self.state)
        # The slowest rank holds up all others.
        worst = {"data_wait_share": speed["data_wait_share"], "memory_bytes": float(self.platform.memory_bytes())}
        learning_rate = max(group["lr"] for group in self.optimizer.param_groups)
        losses = self.stage.take_metrics()
        gather_parameters(self.chunks)
        whole_norm = parameter_norm(self.chunks)
        worst = max_over_ranks(worst, self.platform.device)
        if self.config.training.check_invariants:
            check_replicas(self.chunks)
        if self.metrics is not None:
            self.metrics.write(
                "train",
                {
                    "step": self.state.step,
                    **self.state.token_counts(),
                    **losses,
                    "learning_rate": learning_rate,
                    **({} if gradient_norm is None else {"gradient_norm": gradient_norm}),
                    "parameter_norm": whole_norm,
                    "skipped_steps": self.state.skipped_steps,
                    **speed,
                    **worst,
                },
            )

    def _validate(self) -> None:
        record: dict[str, Any] = {}
        if self.validator is not None:
            record |= self.validator.run(self.chunks)
        if self.word_validator is not None:
            record["retrieval"] = self.word_validator.run(self.chunks)
            held_out = held_out_retrieval(record["retrieval"])
            if held_out is not None:
                self.state.note_retrieval(held_out)
        if self.metrics is not None and record:
            self.metrics.write("valid", {"step": self.state.step, "tokens": self.state.tokens, **record})

    def save(self) -> Path:
        """Save a checkpoint of this step; collective.

        Raises:
            DivergenceError: The weights hold NaN or infinity; saves of them would replace all sound checkpoints.
        """
        gather_parameters(self.chunks)
        if not math.isfinite(parameter_norm(self.chunks)):
            raise DivergenceError(
                f"the weights hold NaN or infinity after step {self.state.step}, so they are not saved: lower "
                "optimizer.lr, or raise optimizer.adam_eps; the newest checkpoint is untouched"
            )
        with signals_held():
            path = save_checkpoint(self.config, self.chunks, self.optimizer, self.state.to_dict(), self.tokenizer_path)
        self._saved_step = self.state.step
        self._say(f"{self.stage.name} {self.state.step:>6}  saved {path}")
        return path

    def _say(self, line: str) -> None:
        if self.metrics is not None:
            self.metrics.say(line)
