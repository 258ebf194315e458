"""Measure tokens and floating-point operations per second, and time not spent training."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

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
