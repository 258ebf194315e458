"""PreAlign pretraining on megatron-core: early multilingual alignment, then code-switched pretraining."""

__version__ = "0.1.0"
