"""Ranks that talk to each other, as those of a training run do, until they lose contact: talking.py FOLDER."""

import os
import sys
import time
from pathlib import Path

import torch

from megatron_prealign.platform import initialize_distributed, select_platform
from megatron_prealign.platform.agreement import report_failure

TIMEOUT_SECONDS = 20.0


def main() -> None:
    rank = int(os.environ["RANK"])
    initialize_distributed(select_platform("cpu"), TIMEOUT_SECONDS / 60)
    try:
        while True:
            torch.distributed.barrier()
            Path(sys.argv[1], f"rank_{rank}").touch()
            time.sleep(0.01)
    except RuntimeError as error:
        report_failure(error, rank)
        raise


if __name__ == "__main__":
    main()
