"""The environment that saved a checkpoint, and the one that loads it: layout, device, layers, optimizer, versions."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from megatron.core.optimizer import MegatronOptimizer

from megatron_prealign.checkpoint import folder
from megatron_prealign.platform import Mesh
from megatron_prealign.platform.distributed import RandomStates, device_of
from megatron_prealign.platform.megatron.optimizer import torch_optimizers

_FUSED = "transformer_engine."


@dataclass(frozen=True)
class Environment:
    """One side of the comparison, as stored in layout.json.

    None is unknown: the checkpoint is older than the field. No interleaving is None too.
    """

    world_size: int | None = None
    tensor_model_parallel_size: int | None = None
    pipeline_model_parallel_size: int | None = None
    virtual_pipeline_model_parallel_size: int | None = None
    context_parallel_size: int | None = None
    device: str | None = None
    layers: str | None = None
    adamw: str | None = None
    dtype: str | None = None
    versions: Mapping[str, str] | None = None

    @classmethod
    def of_run(cls, chunks: list[torch.nn.Module], optimizer: MegatronOptimizer | None) -> "Environment":
        """Return the environment of this run."""
        mesh, parameter = Mesh.current(), next(chunks[0].parameters())
        is_fused = any(
            base.__module__.startswith(_FUSED) for module in chunks[0].modules() for base in type(module).__mro__
        )
        packages = {"torch": "torch", "megatron-core": "megatron.core"}
        if is_fused:
            packages["transformer-engine"] = "transformer_engine"
        return cls(
            world_size=mesh.world_size,
            tensor_model_parallel_size=mesh.tensor.size,
            pipeline_model_parallel_size=mesh.pipeline.size,
            virtual_pipeline_model_parallel_size=mesh.virtual_pipeline_size,
            context_parallel_size=mesh.context.size,
            device=parameter.device.type,
            layers="transformer_engine" if is_fused else "local",
            adamw=None if optimizer is None else _name(torch_optimizers(optimizer)[0]),
            dtype=str(parameter.dtype).removeprefix("torch."),
            versions={
                name: getattr(sys.modules[module], "__version__", "unknown") for name, module in packages.items()
            },
        )

    @classmethod
    def of_checkpoint(cls, checkpoint: Path, random_states: RandomStates | None = None) -> "Environment":
        """Return the environment that saved a checkpoint; a rank's random states show a device that is not recorded.

        Raises:
            CheckpointError: It can't be read.
        """
        path = checkpoint / folder.LAYOUT
        stored = folder.read_json(path) if path.is_file() else {}
        if random_states is not None:
            stored.setdefault("device", device_of(random_states))
        return cls(**{field.name: stored[field.name] for field in fields(cls) if field.name in stored})

    def differences(self, other: "Environment") -> dict[str, str]:
        """Return the aspects (of `portability.ASPECTS`) in which two environments differ, with old and new values.

        A value that is unknown on either side counts as equal, except layout and number of ranks.
        """
        found: dict[str, list[str]] = {}
        for name, aspect in _ASPECTS.items():
            there, here = getattr(self, name), getattr(other, name)
            if there != here and (aspect in ("layout", "ranks") or None not in (there, here)):
                found.setdefault(aspect, []).append(f"{name} was {there}, now {here}")
        return {aspect: ", ".join(changes) for aspect, changes in found.items()}


_ASPECTS = {field.name: "layout" for field in fields(Environment)} | {
    "world_size": "ranks",
    "device": "device",
    "layers": "layers",
    "adamw": "AdamW",
    "dtype": "precision",
    "versions": "versions",
}


def _name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
