"""What the other version of megatron-core does for test_core_versions.py: in its environment, from and to JSON.

python -m tests.compatibility.other_core < REQUEST > ANSWER
"""

import json
import sys
from pathlib import Path
from typing import Any

import megatron.core

from megatron_prealign.config import ParallelConfig
from megatron_prealign.platform import (
    initialize_distributed,
    initialize_model_parallel,
    select_platform,
    shut_down_distributed,
)
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import train_and_save_all
from tests.checkpoint.test_megatron_lm import UNTIED_LLAMA, write


def train(configurations: list[dict[str, Any]], world_size: int) -> list[list[dict[str, Any]]]:
    """Train and save runs in fresh processes; return the records of rank 0."""
    return run_distributed(train_and_save_all, world_size, configurations)[0]


def write_megatron_lm(folder: Path) -> None:
    """Write a checkpoint as Megatron-LM does."""
    platform = select_platform("cpu")
    initialize_distributed(platform)
    initialize_model_parallel(ParallelConfig(), seed=1)
    write(folder, UNTIED_LLAMA, platform.device)
    shut_down_distributed()


if __name__ == "__main__":
    request = json.load(sys.stdin)
    records = train(request["configurations"], request["world_size"])
    write_megatron_lm(Path(request["megatron_lm"]))
    json.dump({"version": megatron.core.__version__, "records": records}, sys.stdout)
