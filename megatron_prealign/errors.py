"""Errors that a user can mend: each names every problem found, where it is, and the fix."""

from collections.abc import Sequence
from dataclasses import dataclass, field

INTERRUPTED = 75
"""Exit code of a run that was told to stop, and saved: EX_TEMPFAIL, to be started again as it is."""
STOPPED_BY_KEYBOARD = 130
"""Exit code of a command that Ctrl+C ended, as shells say it."""
NUM_SHOWN = 20
"""Problems of a large file that are told in full."""


class PrealignError(Exception):
    """Base of all errors caused by input rather than by a defect."""

    exit_code = 2
    """What a command line returns."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        """Keep the problems; the message lists them all."""
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        if len(self.problems) == 1:
            message = self.problems[0]
        else:
            lines = "\n".join(f"  - {problem}" for problem in self.problems)
            message = f"{len(self.problems)} problems:\n{lines}"
        super().__init__(message)


class ConfigError(PrealignError):
    """A configuration that can't run."""


class DataError(PrealignError):
    """Input data, a lexicon, a tokenizer or a baked dataset that can't be used."""


class CheckpointError(PrealignError):
    """A checkpoint that is missing, damaged or does not fit."""


class TrainingError(PrealignError):
    """A run that can't go on; raised on the ranks that see it, where all other errors are raised on every rank."""

    exit_code = 3


@dataclass
class Problems:
    """The first problems in full and the number of all: a wrong separator spoils every line of a large file."""

    shown: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, problem: str) -> None:
        """Count one problem, and keep it when it is among the first."""
        self.count += 1
        if len(self.shown) < NUM_SHOWN:
            self.shown.append(problem)

    def raise_if_any(self, is_all: bool = True) -> None:
        """Raise one error for all.

        Args:
            is_all: Whether everything was looked at; otherwise there may be more.

        Raises:
            DataError: at least one problem was added.
        """
        if not self.count:
            return
        hidden = self.count - len(self.shown)
        raise DataError(
            [*self.shown, f"and {hidden} more ({self.count} problems {'in all' if is_all else 'so far'})"]
            if hidden
            else self.shown
        )
