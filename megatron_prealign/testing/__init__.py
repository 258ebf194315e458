"""Helpers for tests that run real process groups on this machine."""

from megatron_prealign.testing.distributed import run_distributed

__all__ = ["run_distributed"]
