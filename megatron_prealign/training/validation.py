"""Validation losses of each language."""

from collections import defaultdict

import torch

from megatron_prealign.dataset.sampler import StepLoader
from megatron_prealign.platform import Mesh
from megatron_prealign.training.objectives.language_modelling import LanguageModelLoss
from megatron_prealign.training.objectives.sequences import SequencePlan, build_together, cache_path


class Validator:
    """Measures the same samples of each language every time."""

    def __init__(self, plan: SequencePlan, mesh: Mesh, device: torch.device) -> None:
        """Build the validation set of each language; collective."""
        self._plan = plan
        self._mesh = mesh
        self._device = device
        self._datasets = build_together("validation", plan.validation_sets, cache_path(plan.config), mesh)

    @torch.no_grad()
    def run(self, chunks: list[torch.nn.Module]) -> dict[str, dict[str, float]]:
        """Return the mean losses per predicted position by language, in nats; collective.

        Returns:
            loss; switched_loss and ordinary_loss too if there are switched positions.
        """
        training, languages = self._plan.config.training, self._plan.config.data.languages
        for chunk in chunks:
            chunk.eval()
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for language, dataset in self._datasets.items():
            loss = LanguageModelLoss(self._device, languages, end_of_document=self._plan.document_border)
            loader = StepLoader(
                dataset,
                micro_batch_size=training.micro_batch_size,
                global_batch_size=training.global_batch_size,
                data_parallel_rank=self._mesh.data.rank,
                data_parallel_size=self._mesh.data.size,
                pad_end=True,
            )
            for _, batches in zip(range(training.eval_steps), loader, strict=False):
                loss.make_pass(batches).run(chunks, forward_only=True)
            loader.close()
            losses = loss.take_metrics()
            for key, name in (("loss", "lm_loss"), ("switched_loss",) * 2, ("ordinary_loss",) * 2):
                if name in losses:
                    found[key][language] = losses[name]
        for chunk in chunks:
            chunk.train()
        return dict(found)
