"""Build the sample index of a run before it starts, so that no rank waits for it.

python tools/build_index.py --config model.yaml --config pretrain.yaml --data.cache_path /local/cache

Accepts the options of pretrain_prealign.py. If data.cache_path is on disks local to a host, run it once on each host
(srun --ntasks-per-node 1). The run then reports that it found the index. If the run has checkpoints, the index starts
after the newest.
"""

import sys
from collections.abc import Sequence

from megatron_prealign.command_line import tool
from megatron_prealign.config import load_config


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, or 2 after an error that the user can fix."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if not arguments or {"-h", "--help"} & {*arguments}:
        print(__doc__.strip())
        return 0
    config = load_config(arguments).config
    from megatron_prealign.training.setup import build_index, plan_run  # imports take seconds

    cache = build_index(plan_run(config))
    print(cache.describe(), file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
