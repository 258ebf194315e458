"""How many bytes a checkpoint takes, and whether the disk has room for what a run will keep."""

import shutil
from pathlib import Path

from rich.filesize import decimal

from megatron_prealign.checkpoint.folder import CHECKPOINTS, all_checkpoints
from megatron_prealign.config import Config
from megatron_prealign.config.counts import count_parameters

# Two moments and, where the weights themselves are not fp32 or the optimizer holds its own, main weights; all fp32.
_MOMENT_BYTES = 8
_MAIN_BYTES = 4
_OVERHEAD_BYTES = 1 << 20


def checkpoint_bytes(config: Config) -> int:
    """Return about how many bytes a checkpoint of a resolved configuration takes: weights and AdamW's state."""
    assert config.model.vocab_size is not None
    parameters = count_parameters(config.model, config.model.vocab_size)
    weight_bytes = 4 if config.training.precision == "fp32" else 2
    has_main = config.parallel.use_distributed_optimizer or weight_bytes == 2
    per_parameter = weight_bytes + _MOMENT_BYTES + (_MAIN_BYTES if has_main else 0)
    return parameters * per_parameter + _OVERHEAD_BYTES


def room_problems(config: Config) -> list[str]:
    """Return why the disk of the run can't hold the checkpoints that the run keeps, the one being written included."""
    run = Path(config.training.run_path).absolute()
    folder = run / CHECKPOINTS
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    each, keep_last = checkpoint_bytes(config), config.checkpoint.keep_last
    num_missing = max(keep_last + 1 - len(all_checkpoints(run)), 1)
    free = shutil.disk_usage(existing).free
    if free >= num_missing * each:
        return []
    return [
        f"training.run_path {config.training.run_path}: {decimal(free)} are free, but {num_missing} more "
        f"checkpoints of about {decimal(each)} come to lie there at once (checkpoint.keep_last {keep_last} and the "
        "one being written); make room, or name another folder"
    ]
