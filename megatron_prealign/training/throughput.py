"""Measure tokens and floating-point operations per second and time not spent training; trace a window of steps."""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from megatron_prealign.config import Config
from megatron_prealign.config.counts import count_flops_per_token, count_word_flops_per_token
from megatron_prealign.training.state import TrainState

Item = TypeVar("Item")


class Stopwatch:
    """Add up the seconds spent inside it, used as a context."""

    def __init__(self) -> None:
        """Start at 0 seconds."""
        self.seconds = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count the time inside the context."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - start

    def take(self) -> float:
        """Return the seconds since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def timed(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the items, and count the time spent waiting for each."""
        while True:
            with self.running():
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


@dataclass
class Throughput:
    """Measure from one record to the next.

    Attributes:
        config: sizes of the model and of sequences, the vocabulary resolved.
        world_size: ranks.
        peak_flops: dense 16-bit FLOP/s of one GPU; None if unknown.
        waiting: time that this rank waits for data.
        pause: time of validations and checkpoints.
    """

    config: Config
    world_size: int
    peak_flops: float | None
    waiting: Stopwatch = field(default_factory=Stopwatch)
    pause: Stopwatch = field(default_factory=Stopwatch)
    _start: float = 0.0
    _counted: tuple[int, int, int] = (0, 0, 0)

    def start(self, state: TrainState) -> None:
        """Start to measure."""
        self.waiting.take()
        self.pause.take()
        self._start = time.monotonic()
        self._counted = (state.step, state.lm_tokens, state.item_tokens)

    def take(self, state: TrainState) -> dict[str, float]:
        """Return a record's fields for the time since the last call or `start`, and restart."""
        paused, waited = self.pause.seconds, self.waiting.seconds
        seconds = max(time.monotonic() - self._start - paused, 1e-9)
        counts = (state.step, state.lm_tokens, state.item_tokens)
        steps, lm_tokens, item_tokens = (now - before for now, before in zip(counts, self._counted, strict=True))
        model, seq_length = self.config.model, self.config.data.seq_length
        flops = lm_tokens * count_flops_per_token(model, seq_length)
        flops += item_tokens * count_word_flops_per_token(model)
        flops_per_second = flops / seconds / self.world_size
        record = {
            "tokens_per_second": (lm_tokens + item_tokens) / seconds,
            "step_seconds": seconds / max(steps, 1),
            "pause_seconds": paused,
            "data_wait_share": waited / seconds,
            "teraflops_per_rank": flops_per_second / 1e12,
        }
        if self.peak_flops is not None:
            record["mfu"] = flops_per_second / self.peak_flops
        self.start(state)
        return record


class ProfileWindow:
    """Trace the steps of `logging.profile_steps`; outside the window a step costs one comparison."""

    def __init__(self, config: Config, rank: int) -> None:
        """Trace if this rank is one of `logging.profile_ranks`."""
        logging = config.logging
        chosen = bool(logging.profile_steps) and rank in logging.profile_ranks
        self._first, self._last = logging.profile_steps if chosen else (-1, -1)
        self._nvtx = logging.profile_nvtx
        self._folder = Path(config.training.run_path) / "profile"
        self._rank = rank
        self._stack: contextlib.ExitStack | None = None
        self._traced = (0, 0)

    def before_step(self, step: int) -> None:
        """Begin the trace at the first step of the window, or inside it after a resume."""
        if self._stack is None and self._first <= step <= self._last:
            self._traced = (step, step)
            self._stack = contextlib.ExitStack()
            if self._nvtx:
                # nsys profile --capture-range=cudaProfilerApi waits for this.
                self._stack.enter_context(torch.cuda.profiler.profile())
                self._stack.enter_context(torch.autograd.profiler.emit_nvtx())  # type: ignore[no-untyped-call]
            else:
                self._stack.enter_context(torch.profiler.profile(on_trace_ready=self._write))

    def after_step(self, step: int) -> None:
        """End the trace after the last step of the window."""
        self._traced = (self._traced[0], step)
        if step >= self._last:
            self.close()

    def close(self) -> None:
        """End a running trace, perhaps inside the window."""
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    def _write(self, profiler: Any) -> None:
        first, last = self._traced
        name = f"steps_{first}-{last}_rank_{self._rank}.json.gz"
        temporary = self._folder / f"tmp.{name}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(temporary))
            temporary.replace(self._folder / name)
        except (OSError, RuntimeError) as error:  # kineto's own failures are RuntimeErrors
            print(
                f"WARNING: rank {self._rank}: the trace {self._folder / name} can't be written ({error}); "
                "training continues",
                file=sys.stderr,
                flush=True,
            )
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
