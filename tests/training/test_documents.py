"""Documents packed into one sequence are computed as if each were alone, at any layout."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_prealign.config import config_from_dict
from megatron_prealign.dataset.manifest import Manifest, manifest_path, read_manifest
from megatron_prealign.errors import ConfigError
from megatron_prealign.optional_packages import is_usable
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer, run_all_steps
from megatron_prealign.text.tokenizer import load_tokenizer
from tests.dataset.baked import random_documents, write_baked
from tests.workspace import MakeValues

APART = {"reset_attention_mask": True, "reset_position_ids": True, "eod_mask_loss": True, "split": "80,20,0"}
needs_engine = pytest.mark.skipif(not is_usable("transformer_engine"), reason="needs Transformer Engine")
TP2_PP2 = {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "sequence_parallel": True}


@pytest.fixture(scope="module")
def ended(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Short documents with an end-of-document token each, as a bake with --append-eod writes them."""
    tokenizer = load_tokenizer(workspace / "tok")
    assert tokenizer.eod_id is not None
    documents = [
        (np.append(tokens[tokens != tokenizer.eod_id], tokenizer.eod_id), records[:0])
        for tokens, records in random_documents(np.random.default_rng(5), 120, tokenizer.vocab_size, 25)
    ]
    folder = tmp_path_factory.mktemp("ended")
    prefix = write_baked(folder / "data", documents, tokenizer.vocab_size, tokenizer.fingerprint)
    content = {**read_manifest(prefix).content, "eod_id": tokenizer.eod_id}
    manifest_path(prefix).write_text(Manifest(content).to_json(), encoding="utf-8")
    return prefix


def _logits(values: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the logits [S, V] of packed samples, and those of their documents one by one, joined."""
    trainer = make_trainer(values)
    (chunk,) = trainer.chunks
    (one_pass,) = trainer.stage.next_passes(trainer.state)
    found = []
    for batch in one_pass.microbatches:
        seen: list[torch.Tensor] = []
        # The forward step is the run's own; only the loss is left off.
        hook = chunk.register_forward_pre_hook(
            lambda _, args, kwargs: (args, {**kwargs, "labels": None}), with_kwargs=True
        )
        with torch.no_grad():
            packed, _ = one_pass.forward_step(iter([batch]), chunk)
            ends = (np.flatnonzero(batch["tokens"][0].cpu().numpy() == 0) + 1).tolist()
            assert len(ends) > 0
            borders = sorted({0, *ends, batch["tokens"].shape[1]})
            for start, stop in pairwise(borders):
                positions = batch["position_ids"][:, start:stop]
                assert positions.tolist() == [list(range(stop - start))]
                seen.append(chunk(batch["tokens"][:, start:stop], positions, None)[0])
        hook.remove()
        found.append((packed[0].float().cpu(), torch.cat(seen).float().cpu()))
    return found


def _logits_of_all(configurations: list[Any]) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    return [_logits(values) for values in configurations]


def test_packed_documents_are_computed_as_if_alone(ended: str, make_values: MakeValues, tmp_path: Path) -> None:
    data = {**APART, "blend": [{"prefix": ended}]}
    model = {"init_method_std": 0.3}
    apart, together = (
        make_values("pretrain", tmp_path / name, data={**data, "reset_attention_mask": told}, model=model)
        for name, told in (("apart", True), ("together", False))
    )
    results = run_distributed(_logits_of_all, 1, [apart, together])[0]
    assert [len(pairs) for pairs in results] == [4, 4]
    for packed, alone in results[0]:
        assert packed.abs().max() > 1
        torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
    assert all((packed - alone).abs().max() > 1e-2 for packed, alone in results[1])


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["local", pytest.param("transformer_engine", marks=needs_engine)])
def test_packed_documents_on_a_gpu(implementation: str, ended: str, make_values: MakeValues, tmp_path: Path) -> None:
    data, training = {**APART, "blend": [{"prefix": ended}]}, {"device": "cuda", "precision": "bf16"}
    model = {"init_method_std": 0.3, "transformer_impl": implementation}
    values = make_values("pretrain", tmp_path / "run", data=data, model=model, training=training)
    for packed, alone in run_distributed(_logits, 1, values)[0]:
        assert ((packed - alone).norm() / alone.norm()).item() < 2e-2


@pytest.mark.parametrize(
    ("parallel", "stages"),
    [
        (TP2_PP2, ("pretrain", "align_init")),
        # Words are not split over ranks.
        ({"context_parallel_size": 2, "tensor_model_parallel_size": 2, "sequence_parallel": True}, ("pretrain",)),
        ({"context_parallel_size": 4, "recompute": "full"}, ("pretrain",)),
    ],
    ids=["tp2-pp2", "cp2-tp2", "cp4-recomputed"],
)
def test_layouts_agree(
    parallel: dict[str, Any], stages: tuple[str, ...], ended: str, make_values: MakeValues, tmp_path: Path
) -> None:
    parallel = dict(parallel)
    training = {"recompute": parallel.pop("recompute", "none")}

    def runs(name: str, parallel: dict[str, Any], **training: Any) -> list[Any]:
        data = {**APART, "blend": [{"prefix": ended}]}
        return [
            make_values(stage, tmp_path / f"{name}-{stage}", data=data, parallel=parallel, training=training)
            for stage in stages
        ]

    expected = run_distributed(run_all_steps, 1, runs("single", {}), 2)[0]
    found = run_distributed(run_all_steps, 4, runs("parts", parallel, **training), 2)[0]
    for single, parts in zip(expected, found, strict=True):
        for key in ("lm_loss", "gradient_norm"):
            values = [[step[key] for step in run["steps"]] for run in (single, parts)]
            assert values[1] == pytest.approx(values[0], rel=1e-5)
        norm = sum(gradient.square().sum() for gradient in single["gradients"].values()).sqrt()
        for name, gradient in single["gradients"].items():
            bound = 1e-5 * max(gradient.norm(), 1e-3 * norm)
            assert (parts["gradients"][name] - gradient).norm() <= bound, name


def test_a_bake_without_ends_is_refused(make_values: MakeValues, tmp_path: Path) -> None:
    from megatron_prealign.training.setup import plan_run

    with pytest.raises(ConfigError, match=r"baked without --append-eod, so data.reset_attention_mask finds no end of"):
        plan_run(config_from_dict(make_values("pretrain", tmp_path / "run", data={"reset_attention_mask": True})))
