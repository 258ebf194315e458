"""Checks of the data section; the content of files is checked when they are opened."""

import os
from collections.abc import Iterator

from megatron_prealign.config.constraints import Problem
from megatron_prealign.config.data import BlendEntry, ValidEntry, find_prefixes
from megatron_prealign.config.root import Config


def check_data(config: Config) -> Iterator[Problem]:
    """Yield what is wrong with the tokenizer, the baked datasets and their shares."""
    data = config.data
    hint = "train one with prealign-train-tokenizer, or name a Hugging Face folder or a SentencePiece .model"
    if not data.tokenizer_path:
        yield Problem(f"--data.tokenizer_path is not given: {hint}")
    elif not os.path.exists(data.tokenizer_path):
        yield Problem(f"--data.tokenizer_path {data.tokenizer_path}: no such file: {hint}")
    if not data.blend:
        example = "'[{prefix: data/en_text_document, language: en}]'"
        yield Problem(f"--data.blend names no dataset: give at least one, like {example}")
    for index, entry in enumerate(data.blend):
        yield from _files(f"data.blend[{index}]", entry)
        yield from _share(f"data.blend[{index}]", entry)
    for index, valid_entry in enumerate(data.valid_blend):
        yield from _files(f"data.valid_blend[{index}]", valid_entry)
    yield from _split(config)
    yield from _documents(config)
    if data.codeswitch == "online":
        yield from _online(config)


def _files(name: str, entry: ValidEntry) -> Iterator[Problem]:
    """Check that an entry's datasets exist."""
    prefixes = find_prefixes(entry.prefix)
    if not prefixes:
        shown = entry.prefix if isinstance(entry.prefix, str) else list(entry.prefix)
        yield Problem(f"--{name}: no dataset matches {shown}: check the path, which ends before .idx")
    for prefix in prefixes:
        missing = [suffix for suffix in (".bin", ".idx", ".json") if not os.path.isfile(prefix + suffix)]
        if missing:
            yield Problem(
                f"--{name}: {prefix} lacks {', '.join(missing)}: bake it with prealign-preprocess; "
                "a prefix is the path without .bin"
            )


def _share(name: str, entry: BlendEntry) -> Iterator[Problem]:
    """Check the numbers of an entry of the training mix."""
    limits = (("weight", entry.weight, 1e-9, 1e9), ("tokens", entry.tokens, 1, 1 << 62))
    for key, value, low, high in (*limits, ("max_epochs", entry.max_epochs, 1e-9, 1e9)):
        if value is not None and not low <= value <= high:
            rule = "above 0" if value <= 0 else f"in [{low:g}, {high:g}]"
            yield Problem(f"--{name}.{key} must be {rule}, got {value}: change it, or leave the dataset out")


def _online(config: Config) -> Iterator[Problem]:
    """Check what online code-switching needs."""
    data = config.data
    if not data.codeswitch_lexicon_paths:
        yield Problem("--data.codeswitch online needs --data.codeswitch_lexicon_paths: name at least one lexicon")
    for path in data.codeswitch_lexicon_paths:
        if not os.path.isfile(path):
            yield Problem(f"--data.codeswitch_lexicon_paths {path}: no such file: check the path")
    ratios = data.codeswitch_ratios
    if not ratios or not all(0 <= ratio <= 1 for ratio in ratios):
        yield Problem(f"--data.codeswitch_ratios {list(ratios)}: give at least one number, each in [0, 1]")
    if data.blend and all(entry.language != data.codeswitch_language for entry in data.blend):
        yield Problem(
            f"--data.codeswitch_language {data.codeswitch_language}: no dataset in --data.blend has this language: "
            "name one that does, or set --data.codeswitch to baked"
        )


def _split(config: Config) -> Iterator[Problem]:
    """Check the shares of documents."""
    split = config.data.split
    try:
        shares = [float(share) for share in split.split(",")]
    except ValueError:
        shares = []
    if len(shares) != 3 or not all(share == 0 or 1e-9 <= share <= 1e9 for share in shares) or shares[0] == 0:
        yield Problem(
            f"--data.split {split!r} must be three shares, the first above 0, like 969,30,1 for train, valid, test"
        )
    elif shares[1] == 0 and config.training.eval_interval > 0 and not config.data.valid_blend:
        yield Problem(
            f"--data.split {split!r} leaves no documents to validate on: raise its second share, name "
            "--data.valid_blend or set --training.eval_interval 0"
        )


def _documents(config: Config) -> Iterator[Problem]:
    """Check the options that keep documents apart."""
    mask, positions = "data.reset_attention_mask", "data.reset_position_ids"
    if config.data.reset_position_ids and not config.data.reset_attention_mask:
        yield Problem(
            f"--{positions} without --{mask}: rotary embeddings depend only on distances, so nothing would change; "
            "turn both on, or neither"
        )
