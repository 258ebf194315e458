"""Host memory that a save and a load take on each data-parallel rank, beside megatron-core's own way.

    python -m benchmarks.checkpoint_memory      # 134 million parameters on two ranks on the CPU

Weights in bf16 with the distributed optimizer. Ours writes and reads what each rank owns; megatron-core's own code for
the same format, `fully_reshardable`, gathers it. Reported are bytes a parameter of the model: the peak of resident
memory during the call less what was resident before it (only Linux counts that). The last line is one JSON object.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from megatron.core.utils import unwrap_model
from rich.console import Console
from rich.table import Table

from benchmarks.checkpoint import MODEL, TOKENIZER
from megatron_prealign.checkpoint.torch_dist import read_boxes, read_sharded
from megatron_prealign.config import config_from_dict
from megatron_prealign.model import build_model_chunks
from megatron_prealign.platform import initialize_distributed, initialize_model_parallel, select_platform
from megatron_prealign.platform.megatron.optimizer_shards import optimizer_boxes
from megatron_prealign.platform.megatron.torch_dist import write_sharded
from megatron_prealign.testing import run_distributed
from megatron_prealign.training.optimizer import build_optimizer, wrap_data_parallel

WAYS = ("megatron-core", "ours")
Way = Literal["megatron-core", "ours"]
PACKAGES = ("torch", "megatron-core")
NUM_RANKS = 2


def resident_bytes(name: Literal["VmRSS", "VmHWM"]) -> int:
    """Return what is resident now, or the peak since it was last reset."""
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return 1024 * int(found[1])


def added_bytes(call: Callable[[], object]) -> int:
    """Return by how much a call raises resident memory at its peak."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    before = resident_bytes("VmRSS")
    call()
    return resident_bytes("VmHWM") - before


def measure(root: str, way: Way, is_load: bool) -> float:
    """Save or load on this rank; return the bytes a parameter that it took."""
    values = {
        "model": {**MODEL, "untie_embeddings_and_output_weights": True},
        "parallel": {"use_distributed_optimizer": True},
        "data": {"tokenizer_path": str(TOKENIZER), "blend": [{"prefix": "unused"}]},
        "training": {"run_path": root, "precision": "bf16", "device": "cpu"},
    }
    config = config_from_dict(values)
    platform = select_platform("cpu")
    initialize_distributed(platform)
    initialize_model_parallel(config.parallel, config.training.seed)
    chunks = wrap_data_parallel(build_model_chunks(config, platform.device), config)
    optimizer = build_optimizer(chunks, config)
    folder = Path(root)

    def sharded_model() -> dict[str, Any]:
        return {"model0": unwrap_model(chunks)[0].sharded_state_dict()}

    def gathered(is_loading: bool) -> dict[str, Any]:
        model = sharded_model()
        metadata = {"distrib_optim_sharding_type": "fully_reshardable"}
        return {**model, "optimizer": optimizer.sharded_state_dict(model, is_loading=is_loading, metadata=metadata)}

    def save() -> None:
        if way == "megatron-core":
            write_sharded(gathered(False), folder)
        else:
            model = sharded_model()
            write_sharded({**model, "optimizer": optimizer.state_dict()}, folder, optimizer_boxes(optimizer, model))

    def load() -> None:
        if way == "megatron-core":
            optimizer.load_state_dict(read_sharded(gathered(True), folder)["optimizer"])
        else:
            optimizer.load_state_dict(read_sharded(sharded_model(), folder)["optimizer"])
            read_boxes(optimizer_boxes(optimizer, sharded_model()), folder)

    num_parameters = sum(parameter.numel() for parameter in chunks[0].parameters())
    return added_bytes(load if is_load else save) / num_parameters


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    table = Table("way", *(f"{kind}, rank {rank}" for kind in ("save", "load") for rank in range(NUM_RANKS)))
    found: dict[str, dict[str, list[float]]] = {}
    for way in WAYS:
        with tempfile.TemporaryDirectory(prefix="prealign-memory-") as root:
            found[way] = {
                "load" if is_load else "save": run_distributed(
                    measure, NUM_RANKS, root, way, is_load, timeout_seconds=900
                )
                for is_load in (False, True)
            }
        table.add_row(way, *(f"{value:.1f}" for values in found[way].values() for value in values))
    Console().print(table)
    versions = {name: version(name) for name in PACKAGES}
    print(json.dumps({"bytes_a_parameter": found, "ranks": NUM_RANKS, "versions": versions}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
