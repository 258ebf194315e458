"""Which of its run's processes this one is, as torchrun says in the environment; needs no process group."""

import os
import re
from dataclasses import dataclass

from megatron_prealign.errors import ConfigError

_NUMBER = re.compile("[0-9]{1,9}")
_DEFAULTS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


@dataclass(frozen=True)
class Ranks:
    """Where a process stands among all; a lone one is rank 0 of 1."""

    rank: int
    """Among all processes."""
    local_rank: int
    """Among those of its host."""
    world_size: int
    """How many there are."""


def read_ranks() -> Ranks:
    """Read the environment.

    Raises:
        ConfigError: It holds no numbers, or numbers that don't fit each other.
    """
    values = {name: os.environ.get(name, default) for name, default in _DEFAULTS.items()}
    problems = [
        f"{name}={value!r:.40} in the environment is no number"
        for name, value in values.items()
        if not _NUMBER.fullmatch(value)
    ]
    if not problems and int(values["RANK"]) >= int(values["WORLD_SIZE"]):
        problems.append(f"RANK={values['RANK']} in the environment is not below WORLD_SIZE={values['WORLD_SIZE']}")
    if problems:
        raise ConfigError([f"{problem}; start with torchrun, or unset it" for problem in problems])
    return Ranks(*(int(value) for value in values.values()))


def check_rendezvous() -> None:
    """Refuse an environment in which the processes can't find each other.

    Raises:
        ConfigError: Something is missing.
    """
    given = {name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if os.environ.get(name)}
    if "RANK" not in given and os.environ.get("WORLD_SIZE", "1") == "1":
        return
    missing = sorted({"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} - given)
    port = os.environ.get("MASTER_PORT", "")
    problems = [f"{name} is missing in the environment, beside {', '.join(sorted(given))}" for name in missing]
    if port and not (_NUMBER.fullmatch(port) and 0 < int(port) < 65536):
        problems.append(f"MASTER_PORT={port!r:.40} in the environment is no port")
    if problems:
        raise ConfigError([f"{problem}; start with torchrun, or unset them all" for problem in problems])


def is_first() -> bool:
    """Tell whether this is the process that speaks for all."""
    return int(os.environ.get("RANK", "0")) == 0


def is_first_of_host() -> bool:
    """Tell whether this is the process that does what each host needs once."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0
