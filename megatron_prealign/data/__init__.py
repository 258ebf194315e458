"""From text to samples: tokenizer, code-switch, bake, on-disk format, datasets.

    text ─► tokenizer ─► words ─► codeswitch ─► indexed + manifest   (bake: no torch, starts at once)
                                                      │
                                      labels ◄── dataset, blend, sampler   (training: megatron-core)

Nothing is imported here: the bake must not pay for megatron-core's six seconds of imports.
"""
