"""Baked datasets: their format on disk, samples with labels, online switching, the mix and its loader.

    indexed + manifest (on disk) ─► mix ─► blend ─► samples, online ─► sampler ─► workers

Nothing is imported here: the bake writes this format and must not pay for megatron-core's six seconds of imports.
"""
