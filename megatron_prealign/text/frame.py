"""The frame of a document: the tokens before and after its text, in training and wherever a model reads a document."""

from dataclasses import dataclass
from typing import Literal

from megatron_prealign.text.tokenizer import Tokenizer

BosMode = Literal["auto", "always", "never"]
"""Whether documents begin with the begin-of-document token; auto: if the tokenizer adds it."""


@dataclass(frozen=True)
class DocumentFrame:
    """Tokens around the text of a document; None for no token."""

    bos_id: int | None
    eod_id: int | None

    @property
    def start(self) -> list[int]:
        """Tokens of the document itself before its text."""
        return [] if self.bos_id is None else [self.bos_id]

    @property
    def end(self) -> list[int]:
        """Tokens behind the text."""
        return [] if self.eod_id is None else [self.eod_id]

    @property
    def context(self) -> list[int]:
        """Tokens that a model has read when the text begins: the document's own, or else the end of the one before."""
        return self.start or self.end


def document_frame(tokenizer: Tokenizer, bos: BosMode = "auto") -> DocumentFrame:
    """Return the frame of every document that a tokenizer encodes."""
    begins = bos == "always" or (bos == "auto" and tokenizer.adds_bos)
    return DocumentFrame(tokenizer.bos_id if begins else None, tokenizer.eod_id)
