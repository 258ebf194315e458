"""The data section: tokenizer, baked datasets and how samples are made from them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from megatron_prealign.config.constraints import ABOVE_0, AT_LEAST_1, SEED, Range
from megatron_prealign.files import match_pattern


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
    """Baked datasets of one language with one share of the training mix, split among them by size."""

    weight: float = 1.0
    """Relative share of samples drawn from it; weights are normalised."""

    tokens: int | None = None
    """Tokens drawn from it over the whole run, instead of a weight; none = a share of the rest by weight."""

    max_epochs: float | None = None
    """Most epochs of it; none = data.max_epochs, or 1 if `tokens` is set."""


def find_prefixes(prefix: str | Iterable[str]) -> list[str]:
    """Replace patterns among prefixes by the datasets that they match, in the order of their names."""
    found: list[str] = []
    for pattern in (prefix,) if isinstance(prefix, str) else prefix:
        if any(sign in pattern for sign in "*?[") and not Path(f"{pattern}.idx").exists():
            indices = (path.removesuffix(".idx") for path in match_pattern(f"{pattern}.idx"))
            found += sorted(path for path in indices if not path.endswith(".switch"))
        else:
            found.append(pattern)
    return found


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where tokens come from and how they become samples."""

    tokenizer_path: str = ""
    """Hugging Face tokenizer.json or folder, or SentencePiece .model."""

    eod_token: str | None = None
    """Special token that ends documents, the same as in the bake; none = the tokenizer's eos_token."""

    bos: Literal["auto", "always", "never"] = "auto"
    """Whether documents begin with the begin-of-document token, the same as in the bake; auto = if the tokenizer adds
    it."""

    blend: tuple[BlendEntry, ...] = ()
    """Baked datasets of the training mix, with shares and languages."""

    temperature: Annotated[float, Range(0.1, 1000)] | None = None
    """Weights are multiplied by size^(1/temperature): 1 = by size, 3.3 favours small datasets, 100 treats them nearly
    alike; none = weights only."""

    max_epochs: Annotated[float, ABOVE_0] | None = None
    """Most epochs of any dataset; the rest of its share goes to the others (UniMax); none = no limit."""

    valid_blend: tuple[ValidEntry, ...] = ()
    """Baked datasets to validate on, each whole; empty = the second share of data.split of each language in blend."""

    split: str = "969,30,1"
    """Shares of documents for train, valid and test; any unit, normalised."""

    seq_length: Annotated[int, AT_LEAST_1] = 256
    """Input tokens per sample (the label stream is one longer)."""

    label_mode: Literal["input-only", "vanilla", "no-predict"] = "input-only"
    """What a switched position predicts: the original word, the switched text, or nothing."""

    codeswitch: Literal["baked", "online"] = "baked"
    """Where switched words come from: baked into the datasets, or drawn again in each epoch of training."""

    codeswitch_lexicon_paths: tuple[str, ...] = ()
    """Dictionaries for online code-switching; merged."""

    codeswitch_language: str = "en"
    """Language of their source words; online code-switching is for the blend's datasets of this language."""

    codeswitch_target_language: str | None = None
    """Language of the translations, for dictionaries that do not name it."""

    codeswitch_ratios: tuple[float, ...] = (0.05,)
    """Probability in [0, 1] that a covered word is switched, for epoch 0, 1, ...; the last value repeats."""

    codeswitch_seed: Annotated[int, SEED] = 1
    """Seed of the online draws; with a bake's seed and ratio, epoch 0 is that bake."""

    eod_mask_loss: bool = False
    """Exclude positions whose input is the end-of-document token from the loss."""

    reset_attention_mask: bool = False
    """Attend only within a document: attention does not cross end-of-document tokens."""

    reset_position_ids: bool = False
    """Restart positions at 0 in each document; rotary embeddings encode only distances, so nothing else changes."""

    num_workers: Annotated[int, Range(0, 1024)] = 0
    """Processes per rank that read ahead; 0 = a thread of the rank."""

    cache_path: str | None = None
    """Folder of the sample-index cache, local to a host or shared; none = <run_path>/cache."""

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of training and validation, in the order they are named."""
        return tuple(dict.fromkeys(entry.language for entry in (*self.blend, *self.valid_blend)))
