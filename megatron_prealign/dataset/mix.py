"""The mix: checked datasets, and which of them each sample is of, by weight, token count and temperature, with limits.

A run's order of samples is a function of its datasets, its seed and the history of its mixes: each segment of the
history deals its samples by its shares, and every dataset continues at its last position.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from megatron.core.datasets import helpers
from megatron.core.datasets.utils import Split
from numpy.typing import NDArray

from megatron_prealign.config.data import BlendEntry, DataConfig, find_prefixes
from megatron_prealign.dataset.manifest import check_manifest, read_manifest
from megatron_prealign.dataset.samples import open_indexed, split_range
from megatron_prealign.ranks import is_first_of_host
from megatron_prealign.text.frame import document_frame
from megatron_prealign.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class BakedDataset:
    """The training split of one baked dataset."""

    key: str
    """The beginning of the hash of its content, by which checkpoints identify it at any path."""
    prefix: str
    """Its path without `.bin`."""
    language: str
    """Language of its entry."""
    num_tokens: int
    """Tokens of one epoch."""


@dataclass(frozen=True)
class MixSegment:
    """What a run draws from its sample `start`, until its mix changes."""

    start: int
    """Samples of the run before it."""
    shares: dict[str, float]
    """Of each dataset, by key: above 0, adding up to 1; in the order of the blend, by which ties are broken."""
    positions: dict[str, int]
    """Samples drawn before it of each dataset that was ever used."""


@dataclass(frozen=True)
class MixRequest:
    """The mix that is requested for a whole run."""

    data: DataConfig
    """Entries, temperature, limits, sequence length."""
    datasets: Sequence[Sequence[BakedDataset]]
    """The datasets of each entry."""
    num_samples: int
    """Samples of the run."""
    last_step: int
    """Samples of its last step."""

    def continue_from(
        self, mixes: list[MixSegment], consumed_samples: int, positions: dict[str, int]
    ) -> tuple[list[MixSegment], list[str]]:
        """Return the history of mixes, with another segment if the mix has changed, and what is wrong.

        Args:
            mixes: the history so far; empty for a new run.
            consumed_samples: samples drawn so far.
            positions: of these from each dataset, by key.
        """
        if mixes:
            shares, problems = self.find_shares(mixes[-1].start, mixes[-1].positions)
            if not problems and shares == mixes[-1].shares:
                return mixes, []
        if consumed_samples >= self.num_samples and mixes:
            return mixes, []
        shares, problems = self.find_shares(consumed_samples, positions)
        before = mixes[:-1] if mixes and mixes[-1].start == consumed_samples else mixes
        return [*before, MixSegment(consumed_samples, shares, dict(positions))], problems

    def find_shares(self, start: int, positions: Mapping[str, int]) -> tuple[dict[str, float], list[str]]:
        """Return the share of each dataset in the samples from `start`, and why the mix can't be drawn.

        An entry's share is split among its datasets by size.
        """
        # A complete run has the mix of one more sample.
        data, remaining = self.data, max(self.num_samples - start, 1)
        sizes = [sum(dataset.num_tokens for dataset in datasets) for datasets in self.datasets]
        drawn = [sum(positions.get(dataset.key, 0) for dataset in datasets) for datasets in self.datasets]
        wanted = [
            None if entry.tokens is None else entry.tokens / data.seq_length - count
            for entry, count in zip(data.blend, drawn, strict=True)
        ]
        limits = [
            self._max_epochs(entry) * size / data.seq_length - count
            for entry, size, count in zip(data.blend, sizes, drawn, strict=True)
        ]
        problems = [
            problem
            for index, count in enumerate(wanted)
            if count is not None and (problem := self._count_problem(index, count, limits[index], sizes[index]))
        ]
        rest = remaining - sum(count for count in wanted if count is not None)
        free = [index for index, count in enumerate(wanted) if count is None]
        weights = [self._weight(data.blend[index], sizes[index]) for index in free]
        spread = spread_out(max(rest, 0.0), weights, [max(limits[index], 0.0) for index in free])
        short = rest - sum(spread)
        if not problems and (-rest if free else abs(rest)) > min(self.last_step, remaining - 1):
            problems.append(self._sum_problem(rest))
        elif not problems and free and short > min(1, remaining - 1):
            problems.append(self._short_problem(short))
        if problems:
            return {}, problems
        if len(free) == len(wanted) and all(x < y for x, y in zip(spread, limits, strict=True)):
            # A mix by weights alone does not depend on the length of the run.
            counts = weights
        else:
            by_index = dict(zip(free, spread, strict=True))
            counts = [by_index[index] if count is None else max(count, 0.0) for index, count in enumerate(wanted)]
        total = sum(counts)
        shares = {
            dataset.key: count / total * (dataset.num_tokens / size)
            for datasets, count, size in zip(self.datasets, counts, sizes, strict=True)
            for dataset in datasets
            if count > 0
        }
        return shares, problems

    def _weight(self, entry: BlendEntry, size: int) -> float:
        temperature = self.data.temperature
        return entry.weight if temperature is None else entry.weight * float(size) ** (1 / temperature)

    def _max_epochs(self, entry: BlendEntry) -> float:
        chosen = entry.max_epochs if entry.max_epochs is not None else self.data.max_epochs
        if chosen is None:
            return float("inf") if entry.tokens is None else 1.0
        return chosen

    def _count_problem(self, index: int, count: float, limit: float, size: int) -> str:
        """Return why an entry can't give its tokens."""
        entry = self.data.blend[index]
        name, tokens = f"data.blend[{index}] ({name_of(entry)}): tokens {entry.tokens:,}", entry.tokens or 0
        if count < -1:
            drawn = tokens - round(count * self.data.seq_length)
            return f"{name}, but {drawn:,} have already been drawn; raise this number"
        if count > limit + 1:
            return (
                f"{name} are {tokens / size:.3g} epochs of its {size:,} training tokens, more than the "
                f"{self._max_epochs(entry):g} allowed; lower them, or set its max_epochs to "
                f"{-(-tokens // size)}"
            )
        return ""

    def _sum_problem(self, rest: float) -> str:
        length = self.data.seq_length
        asked = sum(entry.tokens or 0 for entry in self.data.blend)
        run, by = self.num_samples * length, round(abs(rest) * length)
        if rest < 0:
            return (
                f"data.blend: tokens add up to {asked:,}, {by:,} more than the {run:,} of the run; lower them, or "
                "raise training.train_steps"
            )
        steps = -(-round(abs(rest)) // self.last_step)
        return (
            f"data.blend: tokens add up to {asked:,}, {by:,} less than the {run:,} of the run: the mix runs out "
            f"{steps:,} steps before the last; raise them, give one entry a weight instead, or lower "
            "training.train_steps"
        )

    def _short_problem(self, short: float) -> str:
        tokens, steps = round(short * self.data.seq_length), -(-round(short) // self.last_step)
        return (
            f"data.max_epochs: the mix runs out {tokens:,} tokens, that is {steps:,} steps, before the last step; "
            "raise max_epochs, add data, or lower training.train_steps"
        )

    def describe(self, mixes: Sequence[MixSegment], consumed_samples: int, positions: Mapping[str, int]) -> str:
        """Return a table of what the run draws from each entry: its share from now on, total tokens and epochs."""
        length, mix = self.data.seq_length, mixes[-1]
        rows = [("entry", "language", "share", "total tokens", "epochs", "drawn so far")]
        for entry, datasets in zip(self.data.blend, self.datasets, strict=True):
            share = sum(mix.shares.get(dataset.key, 0.0) for dataset in datasets)
            drawn = sum(positions.get(dataset.key, 0) for dataset in datasets)
            tokens = round((drawn + share * (self.num_samples - consumed_samples)) * length)
            epochs = tokens / sum(dataset.num_tokens for dataset in datasets)
            name = name_of(entry) + (f" ({len(datasets)} datasets)" if len(datasets) > 1 else "")
            rows.append((name, entry.language, f"{share:.2%}", f"{tokens:,}", f"{epochs:.2f}", f"{drawn * length:,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        since = f" from sample {mix.start:,} on" if mix.start else ""
        return "\n".join([f"Mix{since}:", *(f"  {line}" for line in lines)])


def name_of(entry: BlendEntry) -> str:
    """Return the name of an entry for the user."""
    return entry.prefix if isinstance(entry.prefix, str) else ", ".join(entry.prefix)


def spread_out(amount: float, weights: Sequence[float], limits: Sequence[float]) -> list[float]:
    """Divide an amount by weights, none above its limit; the excess goes to the others, by weight (UniMax)."""
    shared = [0.0] * len(weights)
    full: set[int] = set()
    while len(full) < len(weights):
        rest = amount - sum(limits[index] for index in full)
        total = sum(weight for index, weight in enumerate(weights) if index not in full)
        shared = [limits[index] if index in full else rest * weight / total for index, weight in enumerate(weights)]
        over = {index for index in range(len(weights)) if index not in full and shared[index] > limits[index]}
        if not over:
            return shared
        full |= over
    return list(limits)


def deal_out(shares: Sequence[float], num_samples: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the dataset of each sample, int16, and its number among that dataset's samples, int64.

    megatron-core's blend: each sample is of the dataset that lags its share the most. A longer order begins with a
    shorter one.
    """
    which, number = np.zeros(num_samples, dtype=np.int16), np.zeros(num_samples, dtype=np.int64)
    helpers.build_blending_indices(which, number, np.array(shares), len(shares), num_samples, False)
    return which, number


def check_blend(data: DataConfig, tokenizer: Tokenizer) -> list[str]:
    """Return every problem of training and validating on the datasets with this tokenizer.

    Reads manifests, and on the first rank of a host hashes .idx files; needs no process group.
    """
    problems: list[str] = [] if data.blend else ["data.blend: no dataset given; give at least one baked prefix"]
    if data.reset_attention_mask and tokenizer.eod_id is None:
        return [
            *problems,
            f"data.reset_attention_mask: {data.tokenizer_path} has no end-of-document token; set it to false",
        ]
    named: dict[str, str] = {}
    for field, entries in (("data.blend", data.blend), ("data.valid_blend", data.valid_blend)):
        for prefix in (prefix for entry in entries for prefix in find_prefixes(entry.prefix)):
            found = _check_dataset(prefix, data, tokenizer)
            if not found:
                key = read_manifest(prefix).content_hash
                if key in named:
                    found = [f"{field}: {prefix} is named twice, or has the same content as {named[key]}; name it once"]
                named[key] = prefix
            problems.extend(found)
    return problems


def _check_dataset(prefix: str, data: DataConfig, tokenizer: Tokenizer) -> Sequence[str]:
    # Once per host: thousands of ranks would read the same files.
    problems = check_manifest(prefix, with_hashes=is_first_of_host())
    if problems:
        return problems
    content = read_manifest(prefix).content
    if content["vocab_size"] != tokenizer.vocab_size:
        problems.append(
            f"{prefix}: baked with a vocabulary of {content['vocab_size']} tokens, but the tokenizer of this run has "
            f"{tokenizer.vocab_size}; set data.tokenizer_path to the bake's tokenizer or bake again"
        )
    elif content["tokenizer_fingerprint"] != tokenizer.fingerprint:
        problems.append(
            f"{prefix}: baked with another tokenizer (fingerprint {content['tokenizer_fingerprint'][:12]}, this run's "
            f"is {tokenizer.fingerprint[:12]}); set data.tokenizer_path to the bake's tokenizer or bake again"
        )
    else:
        problems += _frame_problems(prefix, content, data, tokenizer)
    return problems


def _frame_problems(prefix: str, content: Mapping[str, Any], data: DataConfig, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield a problem if documents begin or end with other tokens than this run takes for the frame."""
    frame = document_frame(tokenizer, data.bos)
    bos, eod = content.get("bos_id", frame.bos_id), content.get("eod_id")
    if bos != frame.bos_id:
        there, here = (f"begin {'without a token' if i is None else f'with token {i}'}" for i in (bos, frame.bos_id))
        yield (
            f"{prefix}: its documents {there}, but this run expects that they {here}; set data.bos to the bake's --bos "
            f"({'never' if bos is None else 'always'}), or bake again"
        )
    if eod is not None and eod != frame.eod_id:
        yield (
            f"{prefix}: its documents end with token {eod}, but this run's end-of-document token is {frame.eod_id}; "
            "set data.eod_token to the bake's --eod-token, or bake again"
        )
    if data.reset_attention_mask and eod is None:
        yield (
            f"{prefix}: baked without --append-eod, so data.reset_attention_mask finds no end of a document; bake "
            "it with --append-eod, or set reset_attention_mask to false"
        )


def read_datasets(data: DataConfig) -> list[list[BakedDataset]]:
    """Return the datasets of each entry of the blend, whose manifests were checked."""
    return [
        [_read_dataset(prefix, entry.language, data.split) for prefix in find_prefixes(entry.prefix)]
        for entry in data.blend
    ]


def _read_dataset(prefix: str, language: str, split: str) -> BakedDataset:
    # Keep the reader while its lengths are read: megatron-core unmaps the file with it, in spite of views.
    indexed = open_indexed(prefix)
    start, stop = split_range(len(indexed), split, Split.train)
    num_tokens = int(np.sum(indexed.sequence_lengths[start:stop], dtype=np.int64))
    return BakedDataset(read_manifest(prefix).content_hash[:16], prefix, language, num_tokens)
