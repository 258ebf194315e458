"""What all tests share: no network, repeatable random examples, and GPU tests only where there is a GPU."""

import os

import pytest
from hypothesis import settings

# Set before any library reads them: a test that needs the network fails at once instead of passing here and there.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

pytest_plugins = ["tests.real_text", "tests.te_wheel", "tests.workspace"]

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer to record the golden curves anew."""
    parser.addoption("--record-golden", action="store_true", help="write tests/training/golden/ instead of comparing")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked gpu on a machine without one, and say so."""
    if item.get_closest_marker("gpu") is not None:
        import torch  # two seconds that tests without torch need not wait for

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
