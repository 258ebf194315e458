"""Sentences as items to align: texts of equal meaning in several languages.

Legend: ``N`` sentences, ``G`` groups; a group is the sentences of one row of the files.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_prealign.errors import DataError, Problems
from megatron_prealign.lexicon.reading import numbered_lines, read_bytes
from megatron_prealign.pairs.batches import Ints, ItemBatches, Keys, matches, mean_by_language, number_equals
from megatron_prealign.text.languages import normalize_language
from megatron_prealign.text.ragged import Ragged, spread
from megatron_prealign.text.tokenizer import Tokenizer

Row = Mapping[str, str]
"""One text by language; missing languages are left out."""


def read_aligned(paths: Sequence[str]) -> list[Row]:
    """Read aligned texts.

    A JSONL file has an object of texts by language on each line; any other file is TSV with languages in its first
    line. Empty cells and values that are not text are missing translations. Either may be compressed.

    Raises:
        DataError: every line that can't be read, and files without any text.
    """
    problems = Problems()
    rows: list[Row] = []
    for path in map(Path, paths):
        try:
            data = read_bytes(path)
        except OSError as error:
            problems.add(f"{path}: can't be read ({error}); give an existing file")
            continue
        lines = list(numbered_lines(path, data, problems))
        is_json = ".jsonl" in path.suffixes
        found = [_object(path, *line, problems) for line in lines] if is_json else _table(path, lines, problems)
        if not any(found):
            problems.add(f"{path}: contains no text; write a line of languages and lines of texts, or objects of both")
        rows += [row for row in found if row]
    problems.raise_if_any()
    return rows


def _object(path: Path, number: int, line: str, problems: Problems) -> Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        problems.add(f"{path}:{number}: not JSON ({error})")
        return {}
    if not isinstance(record, dict):
        problems.add(f"{path}:{number}: expected an object of texts by language")
        return {}
    return {normalize_language(name): text for name, text in record.items() if isinstance(text, str) and text.strip()}


def _table(path: Path, lines: Sequence[tuple[int, str]], problems: Problems) -> list[Row]:
    languages = [normalize_language(name) for name in lines[0][1].split("\t")] if lines else []
    rows: list[Row] = []
    for number, line in lines[1:]:
        cells = line.split("\t")
        if len(cells) != len(languages):
            problems.add(f"{path}:{number}: {len(cells)} cells for {len(languages)} languages; separate cells by tabs")
            continue
        rows.append({name: text for name, text in zip(languages, cells, strict=True) if text.strip()})
    return rows


@dataclass(frozen=True)
class SentenceReport:
    """What a tokenizer made of aligned texts."""

    num_groups: int
    """Usable rows: sentences in two languages or more."""
    num_dropped_groups: int
    """Rows with fewer, left out."""
    num_long: int
    """Sentences over the limit of tokens, left out: a cut one differs in meaning from its translations."""
    num_unknown: int
    """Sentences without tokens or with unknown ones, left out."""
    num_copies: int
    """Sentences equal to another language's in the same row, left out as untranslated."""
    mean_tokens: dict[str, float]
    """Mean tokens of the usable sentences, by language."""

    def describe(self) -> str:
        """Return in one line what to know before training on them."""
        lengths = ", ".join(f"{language} {mean:.1f}" for language, mean in self.mean_tokens.items())
        parts = [f"Sentences: {self.num_groups:,} groups, tokens per sentence {lengths}"]
        if self.num_long:
            parts.append(f"{self.num_long:,} longer than alignment.max_sentence_tokens, left out")
        if self.num_unknown:
            parts.append(f"{self.num_unknown:,} with characters unknown to the tokenizer, left out")
        if self.num_copies:
            parts.append(f"{self.num_copies:,} equal to the text in another language, left out")
        if self.num_dropped_groups:
            parts.append(f"{self.num_dropped_groups:,} groups without a second language, left out")
        return "; ".join(parts) + "."


@dataclass(frozen=True, eq=False)
class SentenceTable:
    """Groups of sentences as arrays."""

    languages: tuple[str, ...]
    """The language of each sentence: [N]."""
    tokens: Ragged
    """Token ids of each sentence: int32, N rows."""
    surface_ids: Ints
    """Equal for equal texts: int64 [N]."""
    group_offsets: Ints
    """Where the sentences of each group begin and end: int64 [G + 1]."""
    report: SentenceReport

    @classmethod
    def build(cls, rows: Sequence[Row], tokenizer: Tokenizer, max_sentence_tokens: int) -> "SentenceTable":
        """Tokenize every sentence alone, without special tokens, and lay the groups out as arrays.

        Args:
            rows: aligned texts.
            tokenizer: the tokenizer of the model.
            max_sentence_tokens: longer sentences are left out and counted.

        Raises:
            DataError: if no group is left.
        """
        # An untranslated copy would be a positive of cosine 1 without any information.
        distinct = [{text: language for language, text in reversed([*row.items()])} for row in rows]
        texts = [text for row in distinct for text in row]
        encoded = dict(zip(texts, tokenizer.encode_batch(texts), strict=True))
        unknown = {text for text, ids in encoded.items() if not ids or not tokenizer.special_ids.isdisjoint(ids)}
        long = {text for text, ids in encoded.items() if len(ids) > max_sentence_tokens} - unknown
        groups = []
        for row in distinct:
            kept = [(language, text) for text, language in row.items() if text not in unknown and text not in long]
            if len(kept) > 1:
                groups.append(sorted(kept))
        if not groups:
            raise DataError(
                f"alignment.sentence_paths: none of {len(rows):,} rows has sentences in two languages of at most "
                f"alignment.max_sentence_tokens {max_sentence_tokens} tokens each: check the files, or raise the limit"
            )
        sentences = [sentence for group in groups for sentence in group]
        tokens = Ragged.of_rows([encoded[text] for _, text in sentences])
        languages, kept_texts = zip(*sentences, strict=True)
        report = SentenceReport(
            num_groups=len(groups),
            num_dropped_groups=len(rows) - len(groups),
            num_long=sum(text in long for text in texts),
            num_unknown=sum(text in unknown for text in texts),
            num_copies=sum(map(len, rows)) - len(texts),
            mean_tokens=dict(sorted(mean_by_language(languages, tokens.lengths).items())),
        )
        return cls(
            languages=languages,
            tokens=tokens,
            surface_ids=number_equals(kept_texts),
            group_offsets=np.cumsum([0, *map(len, groups)]),
            report=report,
        )


class SentenceBatches(ItemBatches):
    """Microbatches of groups of sentences: all languages of each row."""

    kind = "sentence"
    option = "alignment.sentence_paths"

    def __init__(self, table: SentenceTable, seed: int, sentence_batch_size: int, *, row_length: int) -> None:
        """Check that the table fills a microbatch; arguments as for the base class.

        Raises:
            DataError: if the table has fewer groups than one microbatch.
        """
        num_groups = table.report.num_groups
        if num_groups < sentence_batch_size:
            raise DataError(
                f"alignment.sentence_paths: {num_groups} usable groups of sentences, fewer than "
                f"alignment.sentence_batch_size {sentence_batch_size}; lower it or give more sentences"
            )
        max_items = int(np.diff(table.group_offsets).max())
        super().__init__(
            table.tokens, num_groups, max_items, seed=seed, batch_size=sentence_batch_size, row_length=row_length
        )
        self._table = table

    @property
    def fingerprint(self) -> str:
        """Of the tokens and groups, SHA-256."""
        arrays = (self._table.group_offsets, self._table.tokens.offsets, self._table.tokens.values)
        return hashlib.sha256(b"".join(array.astype("<i8").tobytes() for array in arrays)).hexdigest()

    @property
    def mean_tokens(self) -> float:
        """Expected tokens of a microbatch, over whole epochs."""
        return self._batch_size * len(self._table.tokens.values) / self._num_groups

    def describe(self) -> str:
        """Return what the tokenizer made of the sentences."""
        return self._table.report.describe()

    def _items(self, groups: Ints, keys: Keys) -> tuple[Ints, Ints]:
        """Return the sentences of each group, and their group ids; nothing is drawn."""
        sizes = self._table.group_offsets[groups + 1] - self._table.group_offsets[groups]
        # A group that ends one epoch and begins the next is one group.
        numbers = np.unique(groups, return_inverse=True)[1]
        return spread(self._table.group_offsets[groups], sizes), np.repeat(numbers, sizes)

    def _excluded_pairs(self, item_ids: Ints, group_ids: Ints) -> Ints:
        """Return all pairs of two groups that share a text, whose other sentences then have equal meaning too."""
        surfaces = self._table.surface_ids[item_ids]
        shared = group_ids[np.stack(matches(surfaces, surfaces), axis=1)]
        shared = np.unique(shared[shared[:, 0] != shared[:, 1]], axis=0)
        # Every sentence of the first group, then of each every sentence of the second.
        pairs, firsts = matches(shared[:, 0], group_ids)
        owners, seconds = matches(shared[pairs, 1], group_ids)
        return np.unique(np.stack([firsts[owners], seconds], axis=1), axis=0)
