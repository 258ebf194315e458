"""Guards between the gradients of a step and the weights; all ranks skip the step, rewind or stop together."""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from megatron.core.optimizer import MegatronOptimizer

from megatron_prealign.config import Config
from megatron_prealign.errors import PrealignError
from megatron_prealign.platform.agreement import from_all_ranks
from megatron_prealign.platform.mesh import gradient_buffers
from megatron_prealign.training.interruption import Interruption
from megatron_prealign.training.norms import sum_of_squares
from megatron_prealign.training.objectives.stage import Stage
from megatron_prealign.training.record_file import RecordFile
from megatron_prealign.training.state import TrainState

Verdict = Literal["apply", "skip", "rewind"]
SKIPPED = "skipped.jsonl"
# OptimizerConfig.min_loss_scale of megatron-core.
_LOWEST_LOSS_SCALE = 1.0


class DivergenceError(PrealignError):
    """The run diverged, and continuing would waste time; raised on all ranks."""

    exit_code = 3


class Guard:
    """Judges each step before its update, and counts the votes to stop after it."""

    def __init__(
        self, config: Config, step: int, interruption: Interruption, say: Callable[[str], None] | None
    ) -> None:
        """Judge the steps after `step`; record skipped ones on the rank that has `say`, which shows a line."""
        self._interruption = interruption
        self._options = config.guards
        self._run_path = Path(config.training.run_path)
        self._say = say
        self._skipped = None if say is None else RecordFile(self._run_path / SKIPPED, step, say, sync_each=True)
        self._is_loss_scaled = config.training.precision == "fp16"

    def judge(
        self,
        chunks: list[torch.nn.Module],
        optimizer: MegatronOptimizer,
        stage: Stage,
        before: TrainState,
        state: TrainState,
    ) -> Verdict:
        """Return what to do with a step whose gradients are in the buffers; collective.

        Args:
            chunks: wrapped model chunks.
            optimizer: its loss scale shows whether fp16 may overflow.
            stage: its objectives hold the losses of the step; they forget them if it is skipped.
            before: position in the data before the step.
            state: position after it; its counters of skipped steps and recent losses are updated.

        Raises:
            DivergenceError: Too many steps were skipped in a row, or the run returned to a checkpoint too often.
        """
        sums, num_bad, votes = self._sum_over_ranks(chunks, stage)
        self._interruption.count(votes)
        total, count = (sum(part) for part in zip((0.0, 0.0), *(pair for pair in sums if pair[1]), strict=True))
        loss = total / max(count, 1)
        # The optimizer itself skips a step that overflows in fp16, and lowers the loss scale until the lowest one.
        is_overflow = self._is_loss_scaled and float(optimizer.get_loss_scale()) > _LOWEST_LOSS_SCALE
        if (num_bad and not is_overflow) or not all(math.isfinite(losses) for losses, _ in sums):
            return self._skip("the loss or a gradient is NaN or infinite", loss, stage, before, state)
        limit = self._spike_limit(state)
        if count and loss > limit:
            cause = f"the loss spikes, above {limit:.4f}"
            return self._skip(cause, loss, stage, before, state, is_spike=True)
        if self._options.loss_spike == "ignore":
            # If the guard is switched on later, it must not judge by old losses.
            state.recent_losses = []
        elif count:
            state.recent_losses = [*state.recent_losses, loss][-self._options.spike_window :]
        state.skipped_in_a_row = 0
        return "apply"

    def _sum_over_ranks(self, chunks: list[torch.nn.Module], stage: Stage) -> tuple[list[list[float]], float, float]:
        sums = stage.step_sums()
        # After the reduction all data-parallel ranks have a NaN of one of them; other stages and shards do not.
        is_bad = ~sum_of_squares(gradient_buffers(chunks), sums.device).isfinite()
        vote = torch.full_like(sums[0, 0], self._interruption.vote())
        sums = torch.cat([sums, torch.stack([is_bad.to(vote), vote])[None]])
        torch.distributed.all_reduce(sums)
        *values, (num_bad, votes) = sums.tolist()
        return values, num_bad, votes

    def _spike_limit(self, state: TrainState) -> float:
        """Return the loss above which a step is a spike; infinite until enough losses are known."""
        recent = state.recent_losses
        if self._options.loss_spike == "ignore" or len(recent) < self._options.spike_window:
            return math.inf
        return statistics.fmean(recent) + self._options.spike_deviations * statistics.pstdev(recent)

    def _skip(
        self,
        cause: str,
        loss: float,
        stage: Stage,
        before: TrainState,
        state: TrainState,
        *,
        is_spike: bool = False,
    ) -> Verdict:
        state.skipped_steps += 1
        state.skipped_in_a_row += 1
        step = before.step + 1
        if self._say is not None and self._skipped is not None:
            self._say(f"step {step} skipped: {cause} (loss {loss:.4f})")
            self._skipped.write({"step": step, "cause": cause, "loss": str(loss), **state.drawn_since(before)})
        rewinds = is_spike and self._options.loss_spike == "rewind"
        too_often = rewinds and state.rewinds >= self._options.max_rewinds
        if too_often or state.skipped_in_a_row >= self._options.max_skipped_steps:
            problems = dict.fromkeys(problem for found in from_all_ranks(stage.step_problems()) for problem in found)
            done = f"after {state.rewinds} rewinds" if too_often else f"{state.skipped_in_a_row} in a row"
            tolerance = "raise guards.spike_deviations, " if is_spike else ""
            fixes = f"{tolerance}lower optimizer.lr or the weights of the losses, or check the data"
            raise DivergenceError(
                f"step {step} was skipped because {cause}, {done}: {fixes}; {self._run_path / SKIPPED} names the "
                "samples; the newest checkpoint is untouched" + "".join(f"; {problem}" for problem in problems)
            )
        stage.drop_step()
        return "rewind" if rewinds else "skip"
