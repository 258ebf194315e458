"""One contradiction in a configuration."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A contradiction, worded with its fix, and the "section.field" names it follows from."""

    message: str
    fields: tuple[str, ...]
