"""Validation losses of each language."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_prealign.dataset.sampler import SampleDataset, StepLoader
from megatron_prealign.platform import Mesh
from megatron_prealign.training.language_modelling import LanguageModelling
from megatron_prealign.training.stage import Pass


def run_schedule(chunks: list[torch.nn.Module], one_pass: Pass, *, forward_only: bool = False) -> None:
    """Run one pass through megatron-core's schedule; losses are recorded by its forward step."""
    get_forward_backward_func()(
        forward_step_func=one_pass.forward_step,
        # Each model chunk of an interleaved pipeline reads all microbatches.
        data_iterator=[iter(one_pass.microbatches) for _ in chunks],
        model=chunks,
        num_microbatches=len(one_pass.microbatches),
        seq_length=one_pass.seq_length,
        micro_batch_size=one_pass.micro_batch_size,
        forward_only=forward_only,
    )


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
            language_modelling = LanguageModelling(self._device, self._languages, end_of_document=self._end_of_document)
            loader = StepLoader(dataset, **self._loader)
            for _, batches in zip(range(self._num_steps), loader, strict=False):
                run_schedule(chunks, language_modelling.make_pass(batches), forward_only=True)
            loader.close()
            losses = language_modelling.take_losses()
            for key, name in (("loss", "lm_loss"), ("switched_loss",) * 2, ("ordinary_loss",) * 2):
                if name in losses:
                    found[key][language] = losses[name]
        for chunk in chunks:
            chunk.train()
        return dict(found)
