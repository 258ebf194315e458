"""Train one stage of PreAlign: torchrun pretrain_prealign.py --config FILE [--section.field VALUE ...]."""

import os
import signal
import sys
import time
from collections.abc import Sequence

from megatron_prealign.config import Config, describe, load_config
from megatron_prealign.errors import INTERRUPTED, ConfigError, PrealignError, TrainingError
from megatron_prealign.training.exit_note import take_exit, write_exit

_SECONDS_TO_SPEAK = 15.0
"""How long other ranks leave the word to rank 0, which may still be importing; then it is on another host."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage that the command line describes; return the exit code."""
    rank = 0
    try:
        rank, world_size = read_environment()
        loaded = load_config(sys.argv[1:] if argv is None else argv, world_size=world_size)
        return train(loaded.config, rank, world_size, dry_run=loaded.dry_run)
    except TrainingError as error:
        print(f"error: rank {rank}: {error}", file=sys.stderr)
        return error.exit_code
    except PrealignError as error:
        _tell(error, rank)
        return error.exit_code
    except BaseException as error:  # torch's CheckpointException is no Exception
        if not isinstance(error, SystemExit | KeyboardInterrupt):
            from megatron_prealign.platform.failure import report_failure

            report_failure(error, rank)
        raise


def _tell(error: PrealignError, rank: int) -> None:
    """Print an error, rank 0 first: the end of any rank makes torchrun end the others, told or not."""
    if rank > 0:
        # torchrun's SIGTERM is no request to save.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_SECONDS_TO_SPEAK)
    print(f"error: {error}", file=sys.stderr, flush=True)


def read_environment() -> tuple[int, int]:
    """Return rank and world size as torchrun sets them; a lone process is rank 0 of 1.

    Raises:
        ConfigError: They are no numbers, or don't fit each other.
    """
    values = {name: os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))}
    problems = [
        f"{name}={value!r} in the environment is no number" for name, value in values.items() if not value.isdecimal()
    ]
    if not problems and int(values["RANK"]) >= int(values["WORLD_SIZE"]):
        problems.append(f"RANK={values['RANK']} in the environment is not below WORLD_SIZE={values['WORLD_SIZE']}")
    if problems:
        raise ConfigError([f"{problem}; start with torchrun, or unset it" for problem in problems])
    return int(values["RANK"]), int(values["WORLD_SIZE"])


def train(config: Config, rank: int, world_size: int, *, dry_run: bool) -> int:
    """Check everything the configuration names, then train; with `dry_run` only print the arithmetic.

    Returns:
        The exit code: 0 where the run is done.
    """
    if not dry_run and (ended := take_exit(config.training.run_path)) is not None:
        return ended
    # Imported late: --help and a refused configuration must not wait for torch and megatron-core.
    from megatron_prealign.checkpoint.run_lock import run_lock
    from megatron_prealign.platform import (
        initialize_distributed,
        initialize_model_parallel,
        select_platform,
        shut_down_distributed,
    )
    from megatron_prealign.training.guards import DivergenceError
    from megatron_prealign.training.setup import build_trainer, describe_start, plan_run

    plan = plan_run(config)
    if rank == 0:
        word_tokens = None if plan.words is None else plan.words.mean_tokens
        print(describe(plan.config, world_size, word_tokens=word_tokens), file=sys.stderr, flush=True)
        print(describe_start(plan), file=sys.stderr, flush=True)
    if dry_run:
        return 0
    platform = select_platform(config.training.device, int(os.environ.get("LOCAL_RANK", "0")))
    initialize_distributed(platform, config.parallel.distributed_timeout_minutes)
    try:
        with run_lock(config.training.run_path):
            layout = initialize_model_parallel(config.parallel, config.training.seed)
            interrupted_by = build_trainer(plan, platform, layout).train()
    except DivergenceError as error:
        write_exit(config.training.run_path, error.exit_code, str(error))
        raise
    exit_code = INTERRUPTED if interrupted_by else 0
    write_exit(config.training.run_path, exit_code, interrupted_by or "done")
    if interrupted_by and rank == 0:
        print(f"Stopped by {interrupted_by}; the same command goes on (exit code {exit_code}).", file=sys.stderr)
    shut_down_distributed()
    return exit_code


if __name__ == "__main__":
    raise SystemExit(main())
