"""The data section: tokenizer, baked datasets and how samples are made of them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class BlendEntry:
    """One baked dataset of the training mix."""

    prefix: str
    """Path of the dataset without .bin/.idx, for example data/en_text_document."""

    weight: float = 1.0
    """Relative share of samples drawn from it; weights are normalised."""

    language: str = "en"
    """Language name; validation loss is reported for each."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where tokens come from and how they become samples."""

    tokenizer_path: str = ""
    """Hugging Face tokenizer.json or folder, or SentencePiece .model."""

    blend: tuple[BlendEntry, ...] = ()
    """Baked datasets with weights and languages."""

    split: str = "969,30,1"
    """Shares of documents for train, valid and test; any unit, normalised."""

    seq_length: int = 256
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

    codeswitch_seed: int = 1
    """Seed of the online draws; with a bake's seed and ratio, epoch 0 is that bake."""

    eod_mask_loss: bool = False
    """Leave positions whose input is the end-of-document token out of the loss."""

    cache_path: str | None = None
    """Folder of the sample-index cache; none = <run_path>/cache."""

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the blend, in the order it names them."""
        return tuple(dict.fromkeys(entry.language for entry in self.blend))
