"""Errors that a user can mend: each names every problem found, where it is, and the fix."""

from collections.abc import Sequence

INTERRUPTED = 75
"""Exit code of a run that was told to stop, and saved: EX_TEMPFAIL, to be started again as it is."""


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
