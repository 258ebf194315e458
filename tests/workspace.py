"""A small tokenizer, lexicon and baked dataset, and configurations over them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from megatron_prealign.text.tokenizer import load_tokenizer
from tests.dataset.baked import random_documents, write_baked

# Several translations of one word, one translation of several words, one surface form in two languages.
WORD_PAIRS = """house haus; house heim; home heim; dog hund; cat katze; tree baum; water wasser; fire feuer;
die sterben; the die; cube die; sun sonne; moon mond; star stern; computation berechnung; a ein;
understanding verständnis"""


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tok/, lexicon.tsv and the baked dataset `data`."""
    folder = tmp_path_factory.mktemp("workspace")
    lines = [pair.strip().split(" ") for pair in WORD_PAIRS.replace("\n", " ").split(";")]
    (folder / "lexicon.tsv").write_text("".join(f"{source}\t{target}\tde\t1.0\n" for source, target in lines))
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f" {source} {target}" for source, target in lines] * 3, trainer)
    # Rows of two and three languages; one text in two rows, an untranslated copy, a sentence too long for the limit.
    (folder / "sentences.tsv").write_text(
        "en\tde\tfr\n"
        "the house\tdas haus\tla maison\n"
        "the dog\tder hund\t\n"
        "a tree and water\tein baum und wasser\tun arbre\n"
        "the sun\tdie sonne\tle soleil\n"
        "the moon\tder mond\tla lune\n"
        "the house\tdas heim\t\n"
        "stern\tstern\tune etoile\n"
        "fire and water\tfeuer und wasser\tle feu et de l'eau, qui est bien plus longue que toutes les autres\n"
    )
    (folder / "tok").mkdir()
    tokenizer.save(str(folder / "tok" / "tokenizer.json"))
    (folder / "tok" / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    loaded = load_tokenizer(folder / "tok")
    documents = random_documents(np.random.default_rng(0), 120, loaded.vocab_size, 100)
    write_baked(folder / "data", documents, loaded.vocab_size, loaded.fingerprint)
    return folder


MakeValues = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture(scope="session")
def make_values(workspace: Path) -> MakeValues:
    """Return a function from (stage, run folder, section overrides) to a configuration as a dictionary."""

    def make(stage: str, run_path: Path, **overrides: dict[str, Any]) -> dict[str, dict[str, Any]]:
        values: dict[str, dict[str, Any]] = {
            "model": {
                "num_layers": 4,
                "hidden_size": 32,
                "num_attention_heads": 4,
                "num_query_groups": 2,
                "ffn_hidden_size": 64,
                "max_position_embeddings": 64,
            },
            "data": {
                "tokenizer_path": str(workspace / "tok"),
                "blend": [{"prefix": str(workspace / "data"), "language": "en"}],
                "seq_length": 32,
                "split": "90,10,0",
            },
            "optimizer": {"lr": 1e-3},
            "alignment": {
                "lexicon_paths": [str(workspace / "lexicon.tsv")],
                "word_batch_size": 5,
                "num_word_microbatches": 2,
                "word_row_length": 16,
            },
            "training": {
                "stage": stage,
                "run_path": str(run_path),
                "train_steps": 6,
                "micro_batch_size": 1,
                "global_batch_size": 4,
                "eval_interval": 0,
                "device": "cpu",
            },
            "logging": {"tensorboard": False},
        }
        if "sentence_batch_size" in overrides.get("alignment", {}):
            values["alignment"] |= {"sentence_paths": [str(workspace / "sentences.tsv")], "max_sentence_tokens": 32}
        for section, fields in overrides.items():
            values.setdefault(section, {}).update(fields)
        return values

    return make
