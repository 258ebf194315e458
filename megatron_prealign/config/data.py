"""The data section: tokenizer, baked datasets and how samples are made of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from glob import glob
from typing import Annotated, Literal

from megatron_prealign.config.constraints import ABOVE_0, AT_LEAST_1, SEED, Range


@dataclass(frozen=True, kw_only=True)
class ValidEntry:
    """Baked datasets of one language."""

    prefix: str | tuple[str, ...]
    """Path of a dataset without .bin/.idx, for example data/en_text_document; a pattern such as data/en_*_text_document
    for all that match it, or a list of either."""

    language: str = "en"
    """Language name; validation loss is reported for each."""


@dataclass(frozen=True, kw_only=True)
class BlendEntry(ValidEntry):
    """Baked datasets of one language that have one share of the training mix, each part of it by its size."""

    weight: float = 1.0
    """Relative share of samples drawn from it; weights are normalised."""

    tokens: int | None = None
    """Tokens drawn from it over the whole run, in place of a weight; none = by weight, of what is left."""

    max_epochs: float | None = None
    """Times that it may be read at most; none = data.max_epochs, or once where `tokens` are given."""


def find_prefixes(prefix: str | Iterable[str]) -> list[str]:
    """Replace patterns among prefixes by the datasets that they match, in the order of their names."""
    found: list[str] = []
    for pattern in (prefix,) if isinstance(prefix, str) else prefix:
        if any(sign in pattern for sign in "*?["):
            indices = (path.removesuffix(".idx") for path in glob(f"{pattern}.idx", recursive=True))
            found += sorted(path for path in indices if not path.endswith(".switch"))
        else:
            found.append(pattern)
    return found


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where tokens come from and how they become samples."""

    tokenizer_path: str = ""
    """Hugging Face tokenizer.json or folder, or SentencePiece .model."""

    blend: tuple[BlendEntry, ...] = ()
    """Baked datasets with their shares and languages."""

    temperature: Annotated[float, Range(0.1, 1000)] | None = None
    """Weights are multiplied by size^(1/temperature): 1 = by size, 3.3 favours small datasets, 100 treats them nearly
    alike; none = by weight alone."""

    max_epochs: Annotated[float, ABOVE_0] | None = None
    """Times that any dataset may be read at most, what is over going to the others (UniMax); none = no limit."""

    valid_blend: tuple[ValidEntry, ...] = ()
    """Baked datasets to validate on, whole; none = the second share of data.split of each language of data.blend."""

    split: str = "969,30,1"
    """Shares of documents for train, valid and test; any unit, normalised."""

    seq_length: Annotated[int, AT_LEAST_1] = 256
    """Tokens a sample (inputs; the label stream is one longer)."""

    label_mode: Literal["input-only", "vanilla", "no-predict"] = "input-only"
    """What a switched position predicts: the original word, the switched text, or nothing."""

    codeswitch: Literal["baked", "online"] = "baked"
    """Where switched words come from: as the datasets were baked, or drawn anew each epoch while training."""

    codeswitch_lexicon_paths: tuple[str, ...] = ()
    """Dictionaries for online code-switching; merged."""

    codeswitch_language: str = "en"
    """Language of their source words; online code-switching is for the blend's datasets of this language."""

    codeswitch_target_language: str | None = None
    """Language of translations in dictionaries that do not name it."""

    codeswitch_ratios: tuple[float, ...] = (0.05,)
    """Probability of a covered word to be switched, in [0, 1], for epoch 0, 1, ...; the last one stays."""

    codeswitch_seed: Annotated[int, SEED] = 1
    """Seed of the online draws; with a bake's seed and ratio, epoch 0 is that bake."""

    eod_mask_loss: bool = False
    """Leave positions whose input is the end-of-document token out of the loss."""

    reset_attention_mask: bool = False
    """Let positions see only their own document: attention does not cross end-of-document tokens."""

    reset_position_ids: bool = False
    """Count positions from 0 in each document; the rotary embeddings know distances alone, so nothing else changes."""

    num_workers: Annotated[int, Range(0, 1024)] = 0
    """Processes a rank that read ahead; 0 = a thread of the rank."""

    cache_path: str | None = None
    """Folder of the sample-index cache, of one host or shared; none = <run_path>/cache."""

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of training and validation, in the order they are named."""
        return tuple(dict.fromkeys(entry.language for entry in (*self.blend, *self.valid_blend)))
