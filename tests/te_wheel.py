"""Where Transformer Engine's Python classes come from: its wheel, unpacked where nothing else finds it."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PACKAGES = ("transformer-engine==2.20.2", "einops>=0.8,<1")
"""1.2 MB without its libraries of kernels, which `te_stub` stands for; and what it imports beside torch."""
_SECONDS = 120


@pytest.fixture(scope="session")
def transformer_engine_folder(request: pytest.FixtureRequest) -> Path:
    """A folder for the PYTHONPATH of a process of its own; skips where the wheel can't be had.

    It lies in pytest's cache: in this environment Transformer Engine must not seem to be installed.
    """
    cache: pytest.Cache = request.config.cache  # type: ignore[attr-defined]
    folder = Path(cache.mkdir("transformer-engine")) / PACKAGES[0].partition("==")[2]
    if folder.is_dir():
        return folder
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries", "0"]
    try:
        subprocess.run(
            [*command, "--target", str(unfinished), *PACKAGES], check=True, capture_output=True, timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(unfinished)
        pytest.skip(f"the wheel of {PACKAGES[0]} can't be had: {error}")
    unfinished.rename(folder)
    return folder
