"""Makes the demo's scripts importable, as they are when run from their folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples/english_clone"))
