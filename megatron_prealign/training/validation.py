"""Validation losses of each language."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from megatron_prealign.dataset.sampler import SampleDataset, StepLoader
from megatron_prealign.platform import Mesh
from megatron_prealign.training.objectives.language_modelling import LanguageModelLoss
from megatron_prealign.training.objectives.sequences import SequencePlan, build_together, cache_path


class Validator:
    """Measures the same samples of each language every time."""

    def __init__(
        self,
        datasets: dict[str, SampleDataset],
        *,
        languages: Sequence[str],
        micro_batch_size: int,
        global_batch_size: int,
        num_steps: int,
        mesh: Mesh,
        device: torch.device,
        end_of_document: int | None = None,
    ) -> None:
        """Take at most `num_steps` global batches of each language, from the start.

        Samples number their language as in `languages`; attention does not cross `end_of_document`.
        """
        self._datasets = datasets
        self._languages = languages
        self._num_steps = num_steps
        self._device = device
        self._end_of_document = end_of_document
        self._loader: dict[str, Any] = {
            "micro_batch_size": micro_batch_size,
            "global_batch_size": global_batch_size,
            "data_parallel_rank": mesh.data.rank,
            "data_parallel_size": mesh.data.size,
            "pad_end": True,
        }

    @torch.no_grad()
    def run(self, chunks: list[torch.nn.Module]) -> dict[str, dict[str, float]]:
        """Return the mean losses per predicted position by language, in nats; collective.

        Returns:
            loss, and where there are switched positions switched_loss and ordinary_loss.
        """
        for chunk in chunks:
            chunk.eval()
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for language, dataset in self._datasets.items():
            loss = LanguageModelLoss(self._device, self._languages, end_of_document=self._end_of_document)
            loader = StepLoader(dataset, **self._loader)
            for _, batches in zip(range(self._num_steps), loader, strict=False):
                loss.make_pass(batches).run(chunks, forward_only=True)
            loader.close()
            losses = loss.take_metrics()
            for key, name in (("loss", "lm_loss"), ("switched_loss",) * 2, ("ordinary_loss",) * 2):
                if name in losses:
                    found[key][language] = losses[name]
        for chunk in chunks:
            chunk.train()
        return dict(found)


def build_validator(plan: SequencePlan, mesh: Mesh, device: torch.device) -> Validator | None:
    """Build the validation of each language, if the run has any; collective."""
    training = plan.config.training
    if training.eval_interval == 0:
        return None
    datasets = build_together("validation", plan.validation_sets, cache_path(plan.config), mesh)
    return Validator(
        datasets,
        languages=plan.config.data.languages,
        micro_batch_size=training.micro_batch_size,
        global_batch_size=training.global_batch_size,
        num_steps=training.eval_steps,
        mesh=mesh,
        device=device,
        end_of_document=plan.document_border,
    )
