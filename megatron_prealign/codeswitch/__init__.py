"""Words found on token ids and replaced by translations, in one compiled pass or as whole-array operations.

lexicon ─► compile_lexicon ─► switch_table ─┐
token ids ─► token_classes ─► words ────────┴─► codeswitch
"""

try:
    from megatron_prealign.codeswitch import scan as compiled
except ImportError:  # installed without a C compiler: the same in whole-array operations, at half the speed
    compiled = None  # type: ignore[assignment]
