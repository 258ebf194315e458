"""Metadata, dependencies and command lines of the package."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# Read, not imported: importing would need the dependencies that are about to be installed.
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "megatron_prealign/__init__.py").read_text(), re.MULTILINE)
README = ROOT / "README.md"

CORE = [
    "torch>=2.6",
    "megatron-core>=0.16.1,<0.17",  # newer ones need Python 3.12 and move modules
    "numpy>=1.26",
    "transformers>=5.0,<6",
    "huggingface-hub>=1.0",
    "tokenizers>=0.22",
    "sentencepiece>=0.2",
    "protobuf>=5",  # transformers reads SentencePiece models with it
    "safetensors>=0.5",
    "nltk>=3.9",
    "pydantic>=2.12",
    "tyro>=1.0,<2",
    "pyyaml>=6.0",
    "orjson>=3.10",
    "backports.zstd>=1.0",  # .zst input; unlike zstandard it tells where a file is cut short
    "rich>=13.7",
    "packaging>=22",
    "psutil>=5.9",  # megatron-core's sharded checkpoints import it without declaring it
    "tensorboard>=2.16",
    "matplotlib>=3.8",
]

EXTRAS = {
    # Fused layers, norms and optimizers. apex, which megatron-core also uses where it finds it,
    # is not on PyPI: NVIDIA's PyTorch images carry it.
    # Of Transformer Engine, the optimizer and extra states of 2.20.2 were read, which refuses states that are pickles.
    # What a later one expects of a checkpoint is not known.
    "gpu": ["transformer-engine[pytorch]>=2.0,<2.21"],
    "data": [
        "gigatoken>=0.10",
        "pyarrow>=15",
        "wordfreq>=3.1",  # ranks translations; brings langcodes
        "py3langid>=0.3",  # tells a dictionary's language
        "regex>=2024.5",
        "openai>=1.40",  # has words translated
    ],
    # Bakes on clusters; Slurm needs datatrove alone.
    "cluster": ["datatrove>=0.10", "ray>=2.40"],
    "logging": [
        "wandb>=0.31",  # gives up on a server that is away at the end of a run (finish_timeout)
        "mlflow-skinny>=3.17",
        "sqlalchemy>=2.0",  # MLflow's stores in a file
        "alembic>=1.13",
    ],
    "eval": [
        "lm-eval[hf]>=0.4.5",
        "accelerate>=1.1",  # Trainer, for zero-shot transfer
        "datasets>=3.0",  # XNLI and PAWS-X by name
    ],
    "dev": [
        "pytest>=8.3",
        "pytest-timeout>=2.3",
        "hypothesis>=6.100",
        "ruff>=0.12",
        "mypy>=1.15",
        "types-PyYAML",
        "mistral-common>=1.5",  # SentencePiece and tekken models of real size, for tests
        "pycountry>=24.6",  # real dictionaries: country names in 170 locales
        "regex>=2024.5",
        "wordfreq>=3.1",
        "py3langid>=0.3",
        "openai>=1.40",
        "pyarrow>=15",
        "gigatoken>=0.10",
        "accelerate>=1.1",
        "wandb>=0.31",
        "mlflow-skinny>=3.17",
        "sqlalchemy>=2.0",
        "alembic>=1.13",
    ],
}

# tools/ is a folder of plain scripts; installed, it becomes the package prealign_tools.
COMMANDS = {
    "prealign-build-lexicon": "build_lexicon",
    "prealign-train-tokenizer": "train_tokenizer",
    "prealign-preprocess": "preprocess_codeswitch",
    "prealign-inspect": "inspect_dataset",
    "prealign-inspect-samples": "inspect_samples",
    "prealign-verify": "verify_dataset",
    "prealign-merge": "merge_datasets",
    "prealign-build-index": "build_index",
    "prealign-convert": "convert_checkpoint",
    "prealign-evaluate": "evaluate",
    "prealign-plot-run": "plot_run",
    "prealign-generate": "generate",
}

setup(
    name="megatron-prealign",
    version=VERSION.group(1),
    description="PreAlign pretraining on megatron-core: early multilingual alignment, then code-switched pretraining",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["megatron_prealign", "megatron_prealign.*"]), "prealign_tools"],
    package_dir={"prealign_tools": "tools"},
    package_data={"megatron_prealign": ["py.typed"]},
    py_modules=["pretrain_prealign"],
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [f"{command}=prealign_tools.{module}:main" for command, module in COMMANDS.items()]
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
