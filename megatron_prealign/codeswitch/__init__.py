"""Words found on token ids and replaced by translations, as whole-array operations.

lexicon ─► compile_lexicon ─► switch_table ─┐
token ids ─► token_classes ─► words ────────┴─► codeswitch
"""
