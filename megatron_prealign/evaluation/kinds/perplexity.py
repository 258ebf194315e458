"""Perplexity of each language, per token and per byte."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from pydantic import PositiveInt
from rich.table import Table

from megatron_prealign.evaluation.folder import ModelFolder
from megatron_prealign.evaluation.frame import (
    Evaluation,
    Paths,
    Progress,
    Results,
    as_title,
    cell,
    finite_exp,
    problems_of,
)
from megatron_prealign.text.documents import read_languages


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure it on."""

    texts: dict[str, Paths]
    """Files of documents by language: JSONL, or text with one document per line."""

    json_key: str = "text"
    """Key of the text in JSONL files."""

    window: PositiveInt | None = None
    """Input tokens at once; none = the sequence length of training."""


def check(options: Options) -> list[str]:
    """Return what is wrong with the texts."""
    return problems_of(lambda: read_languages(options.texts, options.json_key))


def run(folder: ModelFolder, options: Options, progress: Progress) -> Results:
    """Return for each language perplexity, loss, tokens, byte_perplexity, bits_per_byte, bytes and documents."""
    results = {}
    for language, texts in read_languages(options.texts, options.json_key).items():
        shown = partial(progress, part=language)
        results[language] = measure_perplexity(folder, texts, window=options.window, progress=shown).to_json()
    return results


def tables(name: str, results: Results) -> Iterator[Table]:
    """Yield a table with one row per language."""
    table = Table("language", "perplexity", "per byte", "loss", "tokens", "documents", title=as_title(name))
    for language, row in results.items():
        numbers = (cell(row[key], ".4g") for key in ("perplexity", "byte_perplexity", "loss"))
        table.add_row(language, *numbers, f"{row['tokens']:,}", f"{row['documents']:,}")
    yield table


@dataclass(frozen=True)
class Perplexity:
    """Losses of documents in one language."""

    total_loss: float
    """Sum over predicted tokens of -log p, in nats."""
    num_tokens: int
    """Predicted tokens."""
    num_bytes: int
    """Bytes of the predicted text in UTF-8."""
    num_documents: int

    def to_json(self) -> Results:
        """Return the numbers of a results file; infinite ones, which JSON can't hold, as `None`."""
        loss = self.total_loss / self.num_tokens
        bits = self.total_loss / self.num_bytes / math.log(2)
        return {
            "perplexity": finite_exp(loss),
            "loss": loss if math.isfinite(loss) else None,
            "tokens": self.num_tokens,
            "byte_perplexity": finite_exp(self.total_loss / self.num_bytes),
            "bits_per_byte": bits if math.isfinite(bits) else None,
            "bytes": self.num_bytes,
            "documents": self.num_documents,
        }


def measure_perplexity(
    folder: ModelFolder,
    texts: Iterable[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Perplexity:
    """Measure the perplexity of documents of one language, without empty ones.

    The arguments are those of `score_documents`, which says how a document is read.
    """
    from megatron_prealign.evaluation.scoring import score_documents

    kept = [text for text in texts if text.strip()]
    documents = score_documents(folder, kept, window=window, stride=stride, progress=progress)
    return Perplexity(
        total_loss=sum(float(document.losses.sum()) for document in documents),
        num_tokens=sum(len(document.losses) for document in documents),
        num_bytes=sum(
            len(text.encode()) - document.num_given_bytes(text, folder.tokenizer.token_bytes)
            for text, document in zip(kept, documents, strict=True)
        ),
        num_documents=len(kept),
    )


EVALUATION = Evaluation(Options, check, run, tables)
