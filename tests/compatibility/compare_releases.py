"""Exported folders in two releases of transformers: the newest, of this environment, and an old one of another.

python -m venv OLD && OLD/bin/pip install transformers==4.45.2 torch==2.6.0 'numpy<2.3'
python tests/compatibility/compare_releases.py --old-python OLD/bin/python

Not part of `make test`: it needs that second environment. For each architecture a folder of random weights goes through
from-hf and to-hf; both releases must load it whole and give the same logits (1e-4), the same ids for 1,000 lines of ten
languages, which are also the training tokenizer's, and the same greedy continuation. A second folder, whose model ends
every text at once, must make both stop there. transformers knows qwen3 from 4.51 on.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

ARCHITECTURES = {
    "llama": {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
    "qwen2": {"num_key_value_heads": 2, "tied": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 12},
    "gpt_neox": {"use_parallel_residual": False, "hidden_act": "gelu_pytorch_tanh"},
}
ENDING = "-ending"
READER = Path(__file__).with_name("read_folder.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print; return 1 where the releases differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old-python", type=Path, required=True, help="Python with the old transformers")
    options = parser.parse_args(argv)
    from tests.checkpoint.languages import lines_of_ten_languages

    texts = lines_of_ten_languages()
    with tempfile.TemporaryDirectory() as scratch:
        folders = [convert(source) for name in ARCHITECTURES for source in make_sources(Path(scratch), name)]
        request = json.dumps({"folders": [str(folder) for folder in folders], "texts": texts})
        old, new = (read(python, request) for python in (options.old_python, Path(sys.executable)))
        training = [training_ids(folder, texts) for folder in folders]
    results = [check(*one) for one in zip(folders, old, new, training, strict=True)]
    for folder, before, after, found in zip(folders, old, new, results, strict=True):
        versions = f"{after['version']}" + (f" and {before['version']}" if "logits" in before else " alone")
        print(f"{folder.name}, {versions}:", {k: "ok" if holds else "DIFFERS" for k, holds in found.items()})
    return int(not all(holds for found in results for holds in found.values()))


def check(folder: Path, before: dict[str, Any], after: dict[str, Any], ids: list[list[int]]) -> dict[str, bool]:
    """Return what holds of one folder in the old release and in the new one; of the new alone where the old is too old.

    Args:
        folder: where it lies.
        before: what the old release made of it.
        after: what the new one did.
        ids: what training gives the texts.
    """
    if "logits" not in before:
        before = after
    difference = max(abs(x - y) for x, y in zip(before["logits"], after["logits"], strict=True))
    found = {
        "loaded whole": not before["loading"] and not after["loading"],
        "logits within 1e-4": difference < 1e-4,
        "ids of training": before["ids"] == after["ids"] == ids,
        "generation": before["generated"] == after["generated"],
        "eos": before["eos"] == after["eos"] == [0, 0],
        "tied": before["tied"] == after["tied"],
    }
    if folder.name.endswith(ENDING):
        found["stops at eos"] = before["generated"] == after["generated"] == [0]
    return found


def make_sources(scratch: Path, model_type: str) -> list[Path]:
    """Return a folder of random weights, and one whose model ends every text at once."""
    from tests.evaluation.folders import make_ending, make_folder

    settings = ARCHITECTURES[model_type]
    plain = make_folder(scratch / "sources" / model_type, model_type=model_type, **settings)
    ending = make_folder(
        scratch / "sources" / f"{model_type}{ENDING}", model_type=model_type, **settings | {"tied": False}
    )
    make_ending(ending)
    return [plain, ending]


def convert(source: Path) -> Path:
    """Return a folder that came out of a conversion there and back."""
    from megatron_prealign.checkpoint.huggingface import export_checkpoint, import_folder
    from megatron_prealign.platform import shut_down_distributed

    target = source.parents[1] / source.name
    checkpoint = target.with_name(f"{source.name}-checkpoint")
    import_folder(source, checkpoint)
    export_checkpoint(checkpoint, target)
    shut_down_distributed()
    return target


def training_ids(folder: Path, texts: list[str]) -> list[list[int]]:
    """Return the ids that training gives the texts."""
    from megatron_prealign.text.tokenizer import load_tokenizer

    return load_tokenizer(folder).encode_batch(texts)


def read(python: Path, request: str) -> list[dict[str, Any]]:
    """Read the folders with another Python."""
    done = subprocess.run([str(python), str(READER)], input=request, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


if __name__ == "__main__":
    raise SystemExit(main())
