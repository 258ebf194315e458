"""Exported folders in two releases of transformers: the newest, of this environment, and an old one of another.

python -m venv OLD && OLD/bin/pip install transformers==4.45.2 torch==2.6.0 'numpy<2.3'
python tests/compatibility/compare_releases.py --old-python OLD/bin/python

Not part of `make test`: it needs that second environment. For each architecture a folder of random weights goes through
from-hf and to-hf; both releases must load it whole and give the same logits (1e-4), the same ids for 1,000 lines of ten
languages, which are also the training tokenizer's, and the same greedy continuation.
"""

import argparse
import gettext
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pycountry

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

ARCHITECTURES = {
    "llama": {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
    "qwen2": {"num_key_value_heads": 2, "tied": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 12},
    "gpt_neox": {"use_parallel_residual": False, "hidden_act": "gelu_pytorch_tanh"},
}
LANGUAGES = ("ar", "de", "el", "es", "fr", "hi", "ja", "ru", "th", "zh_CN")
READER = Path(__file__).with_name("read_folder.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print; return 1 where the releases differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old-python", type=Path, required=True, help="Python with the old transformers")
    options = parser.parse_args(argv)
    texts = lines()
    with tempfile.TemporaryDirectory() as scratch:
        folders = [export(Path(scratch), name) for name in ARCHITECTURES]
        request = json.dumps({"folders": [str(folder) for folder in folders], "texts": texts})
        old, new = (run(python, request) for python in (options.old_python, Path(sys.executable)))
        training = [training_ids(folder, texts) for folder in folders]
    problems = 0
    for name, before, after, ids in zip(ARCHITECTURES, old, new, training, strict=True):
        difference = max(abs(x - y) for x, y in zip(before["logits"], after["logits"], strict=True))
        checks = {
            "loaded whole": not before["loading"] and not after["loading"],
            "logits": difference < 1e-4,
            "ids": before["ids"] == after["ids"] == ids,
            "generation": before["generated"] == after["generated"],
            "eos": before["eos"] == after["eos"] == [0, 0],
            "tied": before["tied"] == after["tied"],
        }
        problems += sum(not holds for holds in checks.values())
        versions = f"{before['version']} and {after['version']}"
        print(
            f"{name}, {versions}: logits within {difference:.1e};",
            {k: "ok" if v else "DIFFERS" for k, v in checks.items()},
        )
    return min(problems, 1)


def lines() -> list[str]:
    """Return 100 country names in each of ten languages."""
    found = []
    for language in LANGUAGES:
        catalogue = Path(pycountry.LOCALES_DIR) / language / "LC_MESSAGES" / "iso3166-1.mo"

        with catalogue.open("rb") as file:
            translate = gettext.GNUTranslations(file).gettext
        found += [translate(country.name) for country in list(pycountry.countries)[:100]]
    return found


def export(scratch: Path, model_type: str) -> Path:
    """Return a folder that came out of a conversion there and back."""
    from megatron_prealign.checkpoint.huggingface import export_checkpoint, import_folder
    from megatron_prealign.platform import shut_down_distributed
    from tests.evaluation.folders import make_folder

    source = make_folder(scratch / f"{model_type}-source", model_type=model_type, **ARCHITECTURES[model_type])
    import_folder(source, scratch / f"{model_type}-checkpoint")
    export_checkpoint(scratch / f"{model_type}-checkpoint", scratch / model_type)
    shut_down_distributed()
    return scratch / model_type


def training_ids(folder: Path, texts: list[str]) -> list[list[int]]:
    """Return the ids that training gives the texts."""
    from megatron_prealign.data.tokenizer import load_tokenizer

    return load_tokenizer(folder).encode_batch(texts)


def run(python: Path, request: str) -> list[dict]:
    """Read the folders with another Python."""
    done = subprocess.run([str(python), str(READER)], input=request, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


if __name__ == "__main__":
    raise SystemExit(main())
