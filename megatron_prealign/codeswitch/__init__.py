"""Words found on token ids and replaced by translations, in one compiled pass or as whole-array operations.

lexicon ─► compile_lexicon ─► switch_table ─┐
token ids ─► token_classes ─► words ────────┴─► codeswitch
"""

from importlib import import_module
from pathlib import Path
from typing import Any

compiled: Any
"""The module scan; None if no C compiler was there at installation: array operations do the same at half the speed."""
try:
    compiled = import_module("megatron_prealign.codeswitch.scan")
    _source = Path(__file__).with_name("scan.pyx")
    if _source.exists() and _source.stat().st_mtime > Path(compiled.__file__).stat().st_mtime:
        compiled = None  # an editable installation whose source has changed since
except ImportError:
    compiled = None
