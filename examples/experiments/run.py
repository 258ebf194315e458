"""Run experiments as a grid of cells and report on them; what is finished is kept and reused.

python examples/experiments/run.py main_table.yaml --dry-run
python examples/experiments/run.py main_table.yaml ablations.yaml --seeds 3 --jobs 2
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from experiments.command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
