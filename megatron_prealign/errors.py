"""Errors that a user can fix: each lists every problem found, where it is, and the fix."""

from collections.abc import Sequence
from dataclasses import dataclass, field

INTERRUPTED = 75
"""Exit code of a run that saved and stopped on request: EX_TEMPFAIL; start the same command again."""
STOPPED_BY_KEYBOARD = 130
"""Exit code of a command that Ctrl+C ended, as in shells."""
NUM_SHOWN = 20
"""Most problems that one error shows."""


class PrealignError(Exception):
    """Base of all errors that input causes, not a defect."""

    exit_code = 2
    """What a command line returns."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        """Make an error whose message lists all problems."""
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
    """A checkpoint that is missing, damaged or does not match."""


class TrainingError(PrealignError):
    """A run that can't continue. Only the ranks that notice it raise it; other errors are raised on every rank."""

    exit_code = 3


@dataclass
class Problems:
    """The first problems and the number of all: a wrong separator makes every line of a large file one."""

    shown: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, problem: str) -> None:
        """Count a problem, and keep it if it is among the first."""
        self.count += 1
        if len(self.shown) < NUM_SHOWN:
            self.shown.append(problem)

    def raise_if_any(self, is_all: bool = True) -> None:
        """Raise one error for all.

        Args:
            is_all: Whether all input was checked; otherwise there may be more.

        Raises:
            DataError: at least one problem was added.
        """
        if not self.count:
            return
        hidden = self.count - len(self.shown)
        raise DataError(
            [*self.shown, f"and {hidden} more ({self.count} problems {'in total' if is_all else 'so far'})"]
            if hidden
            else self.shown
        )
