"""Makes the scripts of the examples importable, as they are when run from their folder."""

import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ("english_clone", "real_lexicons", "many_languages", "recipes", "")
sys.path[:0] = [str(EXAMPLES / name) for name in NAMES]
