"""Train one stage of PreAlign: torchrun pretrain_prealign.py --config FILE [--section.field VALUE ...]."""

import os
import sys
from collections.abc import Sequence

from megatron_prealign.config import Config, describe, load_config
from megatron_prealign.errors import PrealignError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage that the command line describes; return the exit code."""
    rank = int(os.environ.get("RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        loaded = load_config(sys.argv[1:] if argv is None else argv, world_size=world_size)
        return train(loaded.config, rank, world_size, dry_run=loaded.dry_run)
    except PrealignError as error:
        if rank == 0:
            print(f"error: {error}", file=sys.stderr)
        return 2


def train(config: Config, rank: int, world_size: int, *, dry_run: bool) -> int:
    """Check everything the configuration names, then train; with `dry_run` only print the arithmetic."""
    # Imported late: --help and a refused configuration must not wait for torch and megatron-core.
    from megatron_prealign.platform import (
        initialize_distributed,
        initialize_model_parallel,
        select_platform,
        shut_down_distributed,
    )
    from megatron_prealign.training.setup import build_trainer, plan_run

    plan = plan_run(config)
    if rank == 0:
        print(describe(plan.config, world_size), file=sys.stderr, flush=True)
    if dry_run:
        return 0
    platform = select_platform(config.training.device, int(os.environ.get("LOCAL_RANK", "0")))
    initialize_distributed(platform)
    layout = initialize_model_parallel(config.parallel, config.training.seed)
    build_trainer(plan, platform, layout).train()
    shut_down_distributed()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
