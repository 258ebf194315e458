"""Words found on token ids and replaced by translations, in one compiled pass or as whole-array operations.

lexicon ─► compile_lexicon ─► switch_table ─┐
token ids ─► token_classes ─► words ────────┴─► codeswitch
"""

from importlib import import_module
from typing import Any

compiled: Any
"""The module scan; None if no C compiler was there at installation: array operations do the same at half the speed."""
try:
    compiled = import_module("megatron_prealign.codeswitch.scan")
except ImportError:
    compiled = None
