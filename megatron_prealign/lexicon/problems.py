"""Collects the problems of large files: all are counted, the first are told."""

from dataclasses import dataclass, field

from megatron_prealign.errors import DataError

NUM_SHOWN = 20


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
