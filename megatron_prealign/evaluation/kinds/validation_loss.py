"""Validation loss of a training run by language, on the samples that the run itself measures."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from megatron_prealign.config import find_prefixes, load_resolved
from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.folder import ModelFolder
from megatron_prealign.evaluation.frame import Evaluation, Progress, Results, problems_of

if TYPE_CHECKING:
    from megatron_prealign.dataset.sampler import SampleDataset


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which run's samples."""

    config: str
    """config.yaml of the run; its baked datasets must still be where it says."""

    num_samples: PositiveInt | None = None
    """Most samples per language; none = as many as the run measures."""


def check(options: Options) -> list[str]:
    """Return what is wrong with the configuration and its datasets."""
    from megatron_prealign.dataset.manifest import check_manifest

    if problems := problems_of(lambda: load_resolved(options.config)):
        return problems
    data = load_resolved(options.config).data
    if not data.blend:
        return [f"{options.config}: data.blend names no dataset; give the config.yaml of a run"]
    if data.reset_attention_mask:
        return [
            f"{options.config}: the run kept documents apart (data.reset_attention_mask), which a Hugging Face model "
            "can't do; measure a run without it"
        ]
    prefixes = [prefix for entry in (*data.blend, *data.valid_blend) for prefix in find_prefixes(entry.prefix)]
    return [problem for prefix in prefixes for problem in check_manifest(prefix)]


def run(folder: ModelFolder, options: Options, progress: Progress) -> Results:
    """Return by language loss and positions, and switched_loss and ordinary_loss if any position is switched."""
    from megatron_prealign.dataset.blend import build_valid_datasets
    from megatron_prealign.dataset.mix import check_blend

    config = load_resolved(options.config)
    if problems := check_blend(config.data, folder.tokenizer):
        raise DataError(problems)
    measured = config.training.eval_steps * config.training.global_batch_size
    datasets = build_valid_datasets(config.data, folder.tokenizer, seed=config.training.seed)
    return {
        language: _measure(
            folder,
            dataset,
            min(options.num_samples or measured, len(dataset)),
            config.training.micro_batch_size,
            partial(progress, part=language),
        )
        for language, dataset in datasets.items()
    }


def _measure(
    folder: ModelFolder, dataset: "SampleDataset", num_samples: int, batch_size: int, progress: Progress
) -> Results:
    """Return the mean losses over the first samples of a language."""
    import torch

    from megatron_prealign.evaluation.scoring import token_losses

    # Rows: ordinary and switched positions; columns: the sum of their losses, and their number.
    sums = torch.zeros(2, 2, dtype=torch.float64)
    for start in range(0, num_samples, batch_size):
        samples = [dataset[index] for index in range(start, min(start + batch_size, num_samples))]
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        losses = token_losses(folder, batch["tokens"], batch["labels"])
        mask = batch["loss_mask"].flatten().double()
        is_switched = (batch["loss_group"].flatten() % 2).double()
        for row, chosen in enumerate((mask * (1 - is_switched), mask * is_switched)):
            sums[row] += torch.stack([(losses * chosen).sum(), chosen.sum()])
        progress(start + len(samples), num_samples)
    (ordinary, num_ordinary), (switched, num_switched) = sums.tolist()
    result = {
        "loss": (ordinary + switched) / (num_ordinary + num_switched),
        "positions": int(num_ordinary + num_switched),
    }
    if num_switched:
        result |= {"switched_loss": switched / num_switched, "ordinary_loss": ordinary / max(num_ordinary, 1)}
    return result


EVALUATION = Evaluation(Options, check, run)
