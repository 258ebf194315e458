"""Ranks of this process as torchrun sets them in the environment; needs no process group."""

import os
import re
from dataclasses import dataclass

from megatron_prealign.errors import ConfigError

_NUMBER = re.compile("[0-9]{1,9}")
_DEFAULTS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


@dataclass(frozen=True)
class Ranks:
    """Ranks of a process; a single process is rank 0 of 1."""

    rank: int
    """Rank among all processes."""
    local_rank: int
    """Rank among the processes of its host."""
    world_size: int
    """Number of processes."""


def read_ranks() -> Ranks:
    """Read the ranks from the environment.

    Raises:
        ConfigError: A value is not a number, or they contradict each other.
    """
    values = {name: os.environ.get(name, default) for name, default in _DEFAULTS.items()}
    problems = [
        f"{name}={value!r:.40} in the environment is not a number"
        for name, value in values.items()
        if not _NUMBER.fullmatch(value)
    ]
    if not problems and int(values["RANK"]) >= int(values["WORLD_SIZE"]):
        problems.append(
            f"RANK={values['RANK']} in the environment is not below WORLD_SIZE={values['WORLD_SIZE']}; "
            "start it with torchrun"
        )
    if problems:
        raise ConfigError([f"{problem}; start with torchrun, or unset it" for problem in problems])
    return Ranks(*(int(value) for value in values.values()))


def check_rendezvous() -> None:
    """Refuse an environment in which processes can't find each other.

    Raises:
        ConfigError: A variable is missing or invalid.
    """
    given = {name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if os.environ.get(name)}
    if "RANK" not in given and os.environ.get("WORLD_SIZE", "1") == "1":
        return
    missing = sorted({"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} - given)
    port = os.environ.get("MASTER_PORT", "")
    problems = [f"{name} is missing in the environment, which has {', '.join(sorted(given))}" for name in missing]
    if port and not (_NUMBER.fullmatch(port) and 0 < int(port) < 65536):
        problems.append(f"MASTER_PORT={port!r:.40} in the environment is not a port; use a number from 1 to 65535")
    if problems:
        raise ConfigError([f"{problem}; start with torchrun, or unset them all" for problem in problems])


def is_first() -> bool:
    """Return whether this process reports for all."""
    return int(os.environ.get("RANK", "0")) == 0


def is_first_of_host() -> bool:
    """Return whether this process does the work that each host needs once."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0
