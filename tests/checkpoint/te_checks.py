"""Checks over Transformer Engine's Python classes, in a process of their own: python -m tests.checkpoint.te_checks.

te_checks.py FOLDER TOKENIZER    run every check; FOLDER/results.json holds the failure of each, or null
"""

import json
import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from megatron.core.dist_checkpointing import load_plain_tensors
from megatron.core.utils import unwrap_model
from transformer_engine.common.recipe import DelayedScaling
from transformer_engine.pytorch import fp8_autocast
from transformer_engine.pytorch.optimizers import FusedAdam

from megatron_prealign.checkpoint.huggingface import import_folder
from megatron_prealign.checkpoint.safe_pickle import read_metadata
from megatron_prealign.checkpoint.sharded import load_training_state, load_weights, save_checkpoint
from megatron_prealign.checkpoint.tensors import CheckpointTensors
from megatron_prealign.config import Config, ParallelConfig
from megatron_prealign.errors import CheckpointError
from megatron_prealign.platform import initialize_distributed, initialize_model_parallel, select_platform
from megatron_prealign.training.update_rules import GroupStepAdamW
from tests.checkpoint import te_models
from tests.checkpoint.te_models import Model
from tests.evaluation.folders import make_folder

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt_neox")
PICKLES = "NVTE_ALLOW_UNSAFE_PICKLE_EXTRA_STATE"


class Checks:
    """The checks, each a method; all write below one folder."""

    def __init__(self, folder: Path, tokenizer: Path) -> None:
        self.folder = folder
        self.tokenizer = tokenizer

    def _save(self, config: Config, model: Model, step: int) -> Path:
        return save_checkpoint(config, *model, {"step": step}, self.tokenizer)

    def round_trip(self, name: str, architecture: str, untied: bool, precision: str, sharded: bool) -> None:
        """Go from local layers and AdamW to Transformer Engine's and back; nothing changes."""
        config = te_models.make_config(architecture, untied, str(self.folder / name), precision, sharded)
        local = te_models.build_model(config, "local", 1)
        te_models.take_steps(local, 2)
        first = self._save(config, local, 1)
        fused = te_models.build_model(config, "transformer_engine", 2)
        load_training_state(first, *fused)
        assert type(_inner(fused)) is FusedAdam
        _assert_equal_weights(local, fused)
        second = self._save(config, fused, 2)
        back = te_models.build_model(config, "local", 3)
        load_training_state(second, *back)
        assert type(_inner(back)) is GroupStepAdamW
        _assert_equal_weights(local, back)
        third = self._save(config, back, 3)
        before = _tensors(first)
        assert any("exp_avg_sq" in key for key in before)
        for other in (second, third):
            after = _tensors(other)
            assert before.keys() == after.keys()
            assert all(torch.equal(before[key], after[key]) for key in before)
        expected = te_models.groups(local[1])
        for model in (fused, back):
            assert te_models.groups(model[1]) == expected, (te_models.groups(model[1]), expected)
        # And all of them take the next step, with the same bias correction.
        for model in (local, fused, back):
            te_models.take_steps(model, 1, seed=50)
            assert {group["step"] for group in te_models.groups(model[1])} == {3}
        _assert_equal_weights(local, back)
        tolerance = 1e-6 if precision == "fp32" else 1e-2
        for key, weight in te_models.weights(local[0]).items():
            torch.testing.assert_close(te_models.weights(fused[0])[key], weight, rtol=tolerance, atol=tolerance)

    def fused_to_local(self) -> None:
        """A run that began with Transformer Engine goes on without it."""
        config = te_models.make_config("qwen3", True, str(self.folder / "fused-to-local"))
        fused = te_models.build_model(config, "transformer_engine", 1)
        te_models.take_steps(fused, 2)
        saved = self._save(config, fused, 1)
        local = te_models.build_model(config, "local", 2)
        load_training_state(saved, *local)
        _assert_equal_weights(fused, local)
        assert te_models.groups(fused[1]) == te_models.groups(local[1])
        te_models.take_steps(local, 1)

    def old_groups(self, sharded: bool) -> None:
        """Groups as older versions saved them: without bias correction, and without steps that rank 0 did not count."""
        config = te_models.make_config("llama", True, str(self.folder / f"old-groups-{sharded}"), sharded=sharded)
        local = te_models.build_model(config, "local", 1)
        te_models.take_steps(local, 3)
        saved = self._save(config, local, 1)
        common = torch.load(saved / "common.pt")
        old = (common["optimizer"]["optimizer"] if sharded else common["optimizer"])["param_groups"]
        assert len(old) == 2
        for group in old:
            del group["bias_correction"]
        del old[1]["step"]
        torch.save(common, saved / "common.pt")
        for implementation in ("local", "transformer_engine"):
            model = te_models.build_model(config, implementation, 2)
            load_training_state(saved, *model)
            assert te_models.groups(model[1]) == te_models.groups(local[1])
            te_models.take_steps(model, 1)

    def hugging_face(self, architecture: str, tied: bool) -> None:
        """Weights of a Hugging Face folder come into Transformer Engine's layers."""
        neox = {"use_parallel_residual": False, "hidden_act": "gelu_pytorch_tanh"}
        settings = neox if architecture == "gpt_neox" else {}
        root = self.folder / f"hugging-face-{architecture}-{tied}"
        make_folder(root / "source", model_type=architecture, tied=tied, **settings)
        config = import_folder(root / "source", root / "imported", verify=False).config
        chunks = te_models.build_chunks(config, "transformer_engine")
        load_weights(root / "imported", chunks)
        stored = CheckpointTensors(root / "imported")
        found = te_models.weights(chunks)
        assert found.keys() == stored.keys()
        assert all(torch.equal(found[name], stored[name]) for name in stored)

    def missing(self, gone: str) -> None:
        """A checkpoint that lacks weights or moments is refused, by the name of what it lacks."""
        config = te_models.make_config("llama", True, str(self.folder / f"missing-{gone}"))
        local = te_models.build_model(config, "local", 1)
        te_models.take_steps(local, 1)
        saved = self._save(config, local, 1)
        metadata = read_metadata(saved / ".metadata")
        del metadata.state_dict_metadata[gone]
        (saved / ".metadata").write_bytes(pickle.dumps(metadata))
        for implementation in ("local", "transformer_engine"):
            model = te_models.build_model(config, implementation, 2)
            try:
                load_training_state(saved, *model)
            except CheckpointError as error:
                assert f"lacks {gone}" in str(error), error
            else:
                raise AssertionError("it was loaded")

    def scaling_of_fp8(self) -> None:
        """The state of delayed scaling is loaded, and pickles are forbidden again afterwards."""
        # No step is taken: what was saved then has to load, too.
        config = te_models.make_config("llama", True, str(self.folder / "fp8"))
        saver, loader = (te_models.build_model(config, "transformer_engine", seed) for seed in (1, 2))
        module = _projection(saver)
        with fp8_autocast(enabled=True, fp8_recipe=DelayedScaling(margin=3, amax_history_len=4)):
            module.init_fp8_metadata(num_gemms=1)
        module.fp8_meta["scaling_fwd"].scale.copy_(torch.arange(1.0, 4.0))
        saved = self._save(config, saver, 1)
        state = module.get_extra_state()
        assert state.numel()
        for before in (None, "0", "1"):
            _set(before)
            load_training_state(saved, *loader)
            assert os.environ.get(PICKLES) == before
        _set(None)
        try:
            _projection(loader).set_extra_state(state)
        except RuntimeError as error:
            assert PICKLES in str(error)
        else:
            raise AssertionError("Transformer Engine takes pickles by itself: nothing needs to be allowed any more")
        assert torch.equal(_projection(loader).fp8_meta["scaling_fwd"].scale, torch.arange(1.0, 4.0))
        assert _projection(loader).fp8_meta["recipe"] == module.fp8_meta["recipe"]

    def all_checks(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield every check with its name."""
        for architecture in ARCHITECTURES:
            for untied in (False, True):
                name = f"{architecture}-{'untied' if untied else 'tied'}"
                yield f"round-trip-{name}", partial(self.round_trip, name, architecture, untied, "fp32", False)
        for precision, sharded in (("fp32", True), ("bf16", False), ("bf16", True)):
            name = f"qwen3-{precision}-{'distributed' if sharded else 'plain'}"
            yield f"round-trip-{name}", partial(self.round_trip, name, "qwen3", True, precision, sharded)
        yield "fused-to-local", self.fused_to_local
        for sharded in (False, True):
            yield f"old-groups-{'distributed' if sharded else 'plain'}", partial(self.old_groups, sharded)
        for architecture in ARCHITECTURES:
            yield f"hugging-face-{architecture}", partial(self.hugging_face, architecture, architecture == "qwen3")
        for gone in ("decoder.layers.mlp.linear_fc2.weight", "optimizer.state.exp_avg.output_layer.weight"):
            yield f"missing-{gone.split('.')[0]}", partial(self.missing, gone)
        yield "scaling-of-fp8", self.scaling_of_fp8


def _tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return all weights and moments of a checkpoint, each whole."""
    stored = load_plain_tensors(str(checkpoint))
    return {name: value for name, value in stored.items() if isinstance(value, torch.Tensor)}


def _set(value: str | None) -> None:
    os.environ.pop(PICKLES, None)
    if value is not None:
        os.environ[PICKLES] = value


def _inner(model: Model) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = model[1].optimizer
    return optimizer


def _projection(model: Model) -> torch.nn.Module:
    (chunk,) = unwrap_model(model[0])
    projection: torch.nn.Module = chunk.decoder.layers[1].self_attention.linear_qkv
    return projection


def _assert_equal_weights(one: Model, other: Model) -> None:
    expected, found = te_models.weights(one[0]), te_models.weights(other[0])
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def main(folder: Path, tokenizer: Path) -> None:
    """Run every check and write what failed."""
    torch.set_num_threads(1)
    initialize_distributed(select_platform("cpu"))
    initialize_model_parallel(ParallelConfig(), 1)
    results: dict[str, str | None] = {}
    for name, check in Checks(folder, tokenizer).all_checks():
        try:
            check()
            results[name] = None
        except BaseException:  # torch's CheckpointException is no Exception
            results[name] = traceback.format_exc()
    (folder / "results.json").write_text(json.dumps(results, indent=2))
