"""Look up samples that a run read by their position in its order, as skipped.jsonl names them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_prealign.bake.inspection import spell
from megatron_prealign.checkpoint.folder import CONFIG
from megatron_prealign.config import load_resolved
from megatron_prealign.dataset.index_cache import IndexCache
from megatron_prealign.errors import DataError
from megatron_prealign.training.guards import SKIPPED
from megatron_prealign.training.objectives.sequences import cache_path
from megatron_prealign.training.setup import plan_run


@dataclass(frozen=True)
class ReadSample:
    """One sample: its position, its dataset, and the text that the model saw."""

    position: int
    prefix: str
    text: str


def skipped_samples(run_path: str | Path) -> list[int]:
    """Return the positions that skipped.jsonl of a run names, each once.

    Raises:
        DataError: There is no such file, or it is damaged.
    """
    path = Path(run_path) / SKIPPED
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return list(dict.fromkeys(int(sample) for record in records for sample in record["samples"]))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; the run has skipped no step") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error!r}); pass --samples POSITION instead") from None


def read_samples(run_path: str | Path, positions: Sequence[int]) -> Iterator[ReadSample]:
    """Yield samples of a run by their positions; needs no process group.

    Raises:
        PrealignError: The run's configuration or data can't be read, or its last mix holds no such samples.
    """
    plan = plan_run(load_resolved(Path(run_path) / CONFIG))
    dataset = plan.language_modelling.training_set(plan.read_state(), IndexCache(cache_path(plan.config)))
    outside = [str(position) for position in positions if not dataset.mix.start <= position < len(dataset)]
    if outside:
        raise DataError(
            f"{run_path}: its last mix holds samples {dataset.mix.start} to {len(dataset) - 1}, not "
            f"{', '.join(outside)}; name others"
        )
    prefixes = {dataset.key: dataset.prefix for entry in plan.language_modelling.datasets for dataset in entry}
    for position in positions:
        tokens = dataset[position]["tokens"].tolist()
        yield ReadSample(position, prefixes[dataset.key_of(position)], spell(plan.tokenizer, tokens))
