"""Profile a window of steps on chosen ranks."""

import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch

from megatron_prealign.config import Config


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
        self._stack: ExitStack | None = None
        self._traced = (0, 0)

    def before_step(self, step: int) -> None:
        """Begin the trace at the first step of the window, or inside it after a resume."""
        if self._stack is None and self._first <= step <= self._last:
            self._traced = (step, step)
            self._stack = ExitStack()
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
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
