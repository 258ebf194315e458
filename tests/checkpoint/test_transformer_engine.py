"""Checkpoints go from our layers and AdamW to Transformer Engine's and back, by its own Python classes.

Its kernels need a GPU; its constructors, names, extra states and the logic of its optimizer do not (tests/te_stub.py).
All checks (te_checks.py) run in one process that has it on its path.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation.folders import tokenizer_json

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt_neox")
CHECKS = [
    *(f"round-trip-{name}-{embeddings}" for name in ARCHITECTURES for embeddings in ("tied", "untied")),
    *(f"round-trip-qwen3-{kind}" for kind in ("fp32-distributed", "bf16-plain", "bf16-distributed")),
    "fused-to-local",
    "old-groups-plain",
    "old-groups-distributed",
    *(f"hugging-face-{name}" for name in ARCHITECTURES),
    "missing-decoder",
    "missing-optimizer",
    "scaling-of-fp8",
]
SCRIPT = """
import sys
from pathlib import Path
from tests import te_stub
te_stub.install()
from tests.checkpoint.te_checks import main
main(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def results(transformer_engine_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """The failure of each check, None where it passed."""
    folder = tmp_path_factory.mktemp("checks")
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text(tokenizer_json())
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    environment = {**os.environ, "PYTHONPATH": f"{transformer_engine_folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", SCRIPT, str(folder), str(tokenizer)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    found: dict[str, str | None] = json.loads((folder / "results.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_check(check: str, results: dict[str, str | None]) -> None:
    assert results.keys() == set(CHECKS)
    assert results[check] is None, results[check]
