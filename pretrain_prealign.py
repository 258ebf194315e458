"""Train one stage of PreAlign: torchrun pretrain_prealign.py --config FILE [--section.field VALUE ...]."""

import signal
import sys
import time
from collections.abc import Sequence

from megatron_prealign.command_line import check_locale, outlive_standard_error
from megatron_prealign.config import Config, describe, load_config
from megatron_prealign.errors import INTERRUPTED, STOPPED_BY_KEYBOARD, PrealignError, TrainingError
from megatron_prealign.gpu_environment import set_gpu_environment
from megatron_prealign.ranks import Ranks, check_rendezvous, read_ranks
from megatron_prealign.signals import note_signals
from megatron_prealign.training.exit_note import take_exit, write_exit

_SECONDS_TO_SPEAK = 15.0
"""How long other ranks leave the word to rank 0, which may still be importing; then it is on another host."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage that the command line describes; return the exit code."""
    outlive_standard_error()
    rank = 0
    try:
        check_locale()
        ranks = read_ranks()
        rank = ranks.rank
        loaded = load_config(sys.argv[1:] if argv is None else argv, world_size=ranks.world_size)
        return train(loaded.config, ranks, dry_run=loaded.dry_run)
    except TrainingError as error:
        print(f"error: rank {rank}: {error}", file=sys.stderr)
        return error.exit_code
    except PrealignError as error:
        _tell(error, rank)
        return error.exit_code
    except KeyboardInterrupt:
        if rank == 0:
            print("error: interrupted; the same command resumes from the last checkpoint", file=sys.stderr, flush=True)
        return STOPPED_BY_KEYBOARD
    except BaseException as error:  # torch's CheckpointException is no Exception
        if not isinstance(error, SystemExit):
            from megatron_prealign.platform.agreement import report_failure

            report_failure(error, rank)
        raise


def _tell(error: PrealignError, rank: int) -> None:
    """Print an error, rank 0 first: the end of any rank makes torchrun end the others, warned or not."""
    if rank > 0:
        # torchrun's SIGTERM is no request to save.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_SECONDS_TO_SPEAK)
    print(f"error: {error}", file=sys.stderr, flush=True)


def train(config: Config, ranks: Ranks, *, dry_run: bool) -> int:
    """Check everything the configuration names, then train; with `dry_run` only print the arithmetic.

    Returns:
        The exit code: 0 where the run is done.
    """
    if not dry_run:
        check_rendezvous()
        # Before the note of the last end is removed: a signal between the two would leave none.
        note_signals()
        if (ended := take_exit(config.training.run_path)) is not None:
            return ended
    set_gpu_environment(config)
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
    if ranks.rank == 0:
        tokens = {kind: items.mean_tokens for kind, items in plan.items.items()}
        state = plan.read_state()
        done = state.step, state.consumed_samples
        arithmetic = describe(
            plan.config,
            ranks.world_size,
            word_tokens=tokens.get("word"),
            sentence_tokens=tokens.get("sentence"),
            done=done,
        )
        print(arithmetic, file=sys.stderr, flush=True)
        print(describe_start(plan), file=sys.stderr, flush=True)
    if dry_run:
        return 0
    platform = select_platform(config.training.device, ranks.local_rank)
    try:
        initialize_distributed(platform, config.parallel.distributed_timeout_minutes)
        with run_lock(config.training.run_path):
            mesh = initialize_model_parallel(config.parallel, config.training.seed)
            interrupted_by = build_trainer(plan, platform, mesh).train()
    except (DivergenceError, TrainingError) as error:
        write_exit(config.training.run_path, error.exit_code, str(error), is_mine=isinstance(error, TrainingError))
        raise
    except KeyboardInterrupt:
        write_exit(config.training.run_path, STOPPED_BY_KEYBOARD, "Ctrl+C")
        raise
    exit_code = INTERRUPTED if interrupted_by else 0
    write_exit(config.training.run_path, exit_code, interrupted_by or "done")
    if interrupted_by and ranks.rank == 0:
        print(f"Stopped by {interrupted_by}; run the same command to resume (exit code {exit_code}).", file=sys.stderr)
    shut_down_distributed()
    return exit_code


if __name__ == "__main__":
    raise SystemExit(main())
