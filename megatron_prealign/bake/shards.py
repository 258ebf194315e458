"""The shards of a bake, appended to one dataset in the order of the input while later pieces are still being baked."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from megatron_prealign.bake.job import Job
from megatron_prealign.codeswitch.codeswitch import SwitchCounts
from megatron_prealign.dataset.indexed import IndexedWriter, WrittenFile, optimal_dtype
from megatron_prealign.dataset.manifest import DATA_SUFFIXES

_MAX_EXAMPLES = 20


class ShardMerger:
    """Writes the data files under a temporary prefix; what a run that was killed left there is written again."""

    def __init__(self, job: Job, staged: Path, vocab_size: int) -> None:
        """Create the files.

        Args:
            job: Whose shards; those that are finished already are appended with the first one that is added.
            staged: Prefix of the files.
            vocab_size: Of the tokenizer.
        """
        self._job = job
        self.staged = staged
        self._ready = set(range(len(job.pieces))) - set(job.unfinished())
        self._num_appended = 0
        self._counts = SwitchCounts()
        self._num_skipped = 0
        self.skipped_examples: list[str] = []
        """What was wrong with some of the lines that were left out."""
        paths = {suffix: Path(f"{staged}{suffix}") for suffix in DATA_SUFFIXES}
        dtype = optimal_dtype(vocab_size)
        with ExitStack() as stack:
            self._tokens = stack.enter_context(IndexedWriter(paths[".bin"], paths[".idx"], dtype, vocab_size - 1))
            self._switches = stack.enter_context(IndexedWriter(paths[".switch.bin"], paths[".switch.idx"], np.int32))
            self._files = stack.pop_all()

    def __enter__(self) -> Self:
        """Return the merger."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the files."""
        self._files.close()

    def add(self, number: int) -> None:
        """Take a piece that is finished, and append all shards whose turn it is."""
        self._ready.add(number)
        self._append_ready()

    def close(self) -> tuple[dict[str, WrittenFile], dict[str, Any]]:
        """Append what is left, and write the indexes; return the files by suffix, and what they hold."""
        self._ready.update(range(len(self._job.pieces)))
        self._append_ready()
        tokens, counts = self._tokens, self._counts
        files = dict(zip((".bin", ".idx"), tokens.close(), strict=True))
        if counts.switched:
            files |= dict(zip((".switch.bin", ".switch.idx"), self._switches.close(), strict=True))
        sizes = {"documents": tokens.num_documents, "sequences": tokens.num_sequences, "tokens": tokens.num_tokens}
        return files, sizes | {"skipped": self._num_skipped} | asdict(counts)

    def _append_ready(self) -> None:
        while self._num_appended in self._ready:
            number = self._num_appended
            mark = self._job.mark(number)
            self._tokens.append(self._job.shard_prefix(number))
            self._switches.append(f"{self._job.shard_prefix(number)}.switch")
            self._num_skipped += mark["skipped"]
            self.skipped_examples += mark["examples"][: _MAX_EXAMPLES - len(self.skipped_examples)]
            self._counts.add(SwitchCounts(**{name: mark[name] for name in asdict(self._counts)}))
            self._num_appended += 1
