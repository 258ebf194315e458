"""The plan of a run: published throughputs lie in its range, and what it lists fits and runs."""

import dataclasses
import itertools
from typing import Any

import pytest

from megatron_prealign.config import config_from_dict
from megatron_prealign.config.planning import GPUS, Cluster, all_layouts, estimate, fitting
from megatron_prealign.config.root import Config
from megatron_prealign.config.training import OptimizerConfig
from tools.plan import layout_problems


def _config(model: dict[str, Any], batch: int, micro: int, length: int, **parallel: Any) -> Config:
    tensor, recompute = parallel.pop("tensor", 1), parallel.pop("recompute", "none")
    values: dict[str, Any] = {
        "model": {"max_position_embeddings": length, **model},
        "parallel": {
            "tensor_model_parallel_size": tensor,
            "sequence_parallel": tensor > 1 and parallel.pop("sequence", True),
            "pipeline_model_parallel_size": parallel.pop("pipeline", 1),
            "virtual_pipeline_model_parallel_size": parallel.pop("virtual", None),
            "use_distributed_optimizer": parallel.pop("sharded", True),
        },
        "training": {
            "micro_batch_size": micro,
            "global_batch_size": batch,
            "precision": "bf16",
            "recompute": recompute,
        },
        "data": {"seq_length": length},
    }
    assert not parallel
    return config_from_dict(values)


def _gpt(layers: int, hidden: int, heads: int) -> dict[str, Any]:
    sizes = {"num_layers": layers, "hidden_size": hidden, "num_attention_heads": heads, "ffn_hidden_size": 4 * hidden}
    return {"architecture": "gpt_neox", "vocab_size": 51200, **sizes}


GPT_530B = _gpt(105, 20480, 128)
# 126 layers, which 16 ranks do not split evenly.
LLAMA_405B = {
    "num_layers": 128,
    "hidden_size": 16384,
    "num_attention_heads": 128,
    "num_query_groups": 8,
    "ffn_hidden_size": 53248,
    "vocab_size": 128256,
    "untie_embeddings_and_output_weights": True,
}
LLAMA_3 = _config(LLAMA_405B, 2048, 1, 8192, tensor=8, pipeline=16, virtual=8)
TINY_LLAMA = {
    "num_layers": 22,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_query_groups": 4,
    "ffn_hidden_size": 5632,
    "vocab_size": 32000,
    "untie_embeddings_and_output_weights": True,
}
INTERLEAVED: dict[str, Any] = {"tensor": 8, "pipeline": 35, "virtual": 3, "sharded": False}
MT_NLG = _config(
    GPT_530B, 1920, 1, 2048, tensor=8, pipeline=35, recompute="full", sequence=False, sharded=False
)  # arXiv 2201.11990, sec. 2.4: seconds of a step


@pytest.mark.parametrize(
    ("config", "gpu", "num_gpus", "network_gb", "seconds"),
    [
        pytest.param(MT_NLG, "a100-80", 2240, 25.0, 60.1, id="MT-NLG 530B on 2,240"),
        pytest.param(MT_NLG, "a100-80", 2800, 25.0, 50.2, id="MT-NLG 530B on 2,800"),
        pytest.param(MT_NLG, "a100-80", 3360, 25.0, 44.4, id="MT-NLG 530B on 3,360"),
    ],
)
def test_published_step_times_lie_in_the_range(
    config: Config, gpu: str, num_gpus: int, network_gb: float, seconds: float
) -> None:
    low, high = estimate(config, Cluster(gpu=GPUS[gpu], num_gpus=num_gpus, network_gb=network_gb)).step_seconds
    assert low <= seconds <= high <= 1.7 * low


@pytest.mark.parametrize(
    ("config", "gpu", "num_gpus", "network_gb", "mfu"),
    [
        pytest.param(  # arXiv 2205.05198, abstract
            _config(GPT_530B, 2240, 1, 2048, **INTERLEAVED),
            "a100-80",
            2240,
            25.0,
            0.542,
            id="GPT 530B",
        ),
        pytest.param(
            _config(
                GPT_530B,
                2240,
                1,
                2048,
                tensor=8,
                pipeline=35,
                virtual=3,
                recompute="full",
                sequence=False,
                sharded=False,
            ),
            "a100-80",
            2240,
            25.0,
            0.421,
            id="GPT 530B with recomputation",
        ),
        pytest.param(  # arXiv 2407.21783, table 4: TFLOP/s of a peak of 989
            LLAMA_3,
            "h100",
            8192,
            50.0,
            430 / 989,
            id="Llama 3 405B on 8,192",
        ),
        pytest.param(
            LLAMA_3,
            "h100",
            16384,
            50.0,
            400 / 989,
            id="Llama 3 405B on 16,384",
        ),
        pytest.param(  # arXiv 2401.02385, sec. 2.3
            _config(TINY_LLAMA, 512, 8, 2048), "a100-40", 16, 25.0, 0.56, id="TinyLlama 1.1B"
        ),
    ],
)
def test_published_utilisations_lie_in_the_range(
    config: Config, gpu: str, num_gpus: int, network_gb: float, mfu: float
) -> None:
    low, high = estimate(config, Cluster(gpu=GPUS[gpu], num_gpus=num_gpus, network_gb=network_gb)).mfu
    assert low <= mfu <= high <= 1.9 * low


EIGHT_B = _config({"preset": "llama-8b", "vocab_size": 128256}, 1024, 1, 8192)
CLUSTER = Cluster(gpu=GPUS["h100"], num_gpus=64)


def test_layouts_fit_run_and_come_fastest_first() -> None:
    layouts = fitting(all_layouts(EIGHT_B, CLUSTER), CLUSTER)
    assert len(layouts) > 20
    seconds = [sum(layout.step_seconds) for layout in layouts]
    assert all(later >= 0.97 * earlier for earlier, later in itertools.pairwise(seconds))
    for layout in layouts:
        assert layout.peak_bytes <= (80 - CLUSTER.reserve_gib) * 2**30
        assert layout_problems(layout.config, CLUSTER.num_gpus) == []
        assert layout.config.training.global_batch_size == 1024


def test_a_model_that_fits_nowhere_has_no_layout() -> None:
    small = Cluster(gpu=GPUS["a100-40"], num_gpus=8)
    running = all_layouts(_config(LLAMA_405B, 16, 1, 8192), small)
    assert running and fitting(running, small) == []


def _seconds(part: str, cluster: Cluster = CLUSTER, **layout: Any) -> float:
    config = _config({"preset": "llama-8b", "vocab_size": 128256}, 1024, 1, 8192, **layout)
    return estimate(config, cluster).parts[part][0]


def test_each_part_follows_what_causes_it() -> None:
    assert _seconds("tensor parallelism") == _seconds("pipeline bubble") == _seconds("pipeline messages") == 0
    # 63 / 64 against 1 / 2 of the bytes; 16 microbatches, whose bubble is 3 of them, or 3 / 2.
    assert _seconds("tensor parallelism", tensor=8) == pytest.approx(
        _seconds("tensor parallelism", tensor=2) * 4 * (7 / 8) / (1 / 2), rel=1e-9
    )
    assert _seconds("pipeline bubble", pipeline=4) == pytest.approx(
        2 * _seconds("pipeline bubble", pipeline=4, virtual=2), rel=1e-9
    )
    assert _seconds("matrix products", recompute="full") > 1.25 * _seconds("matrix products")
    assert 1.1 < _seconds("matrix products", recompute="mlp") / _seconds("matrix products") < 1.25
    assert _seconds("tensor parallelism", tensor=8, recompute="mlp") == pytest.approx(
        _seconds("tensor parallelism", tensor=8) * 5 / 4, rel=1e-9
    )
    near = Cluster(gpu=GPUS["h100"], num_gpus=64, gpus_per_node=64)
    assert _seconds("gradients", near) < _seconds("gradients")
    assert _seconds("optimizer", sharded=False) == pytest.approx(64 * _seconds("optimizer"), rel=1e-6)


def test_muon_has_layouts_with_half_the_moments_of_matrices_and_pays_for_iterations() -> None:
    model = {"preset": "llama-8b", "vocab_size": 128256}
    adamw = _config(model, 1024, 1, 8192, tensor=8, sharded=False)
    muon = dataclasses.replace(adamw, optimizer=OptimizerConfig(name="muon"))
    assert fitting(all_layouts(muon, CLUSTER), CLUSTER)
    plain, saving = (estimate(config, CLUSTER) for config in (adamw, muon))
    matrices = 32 * 4096 * (2 * 4096 + 2 * 1024 + 3 * 14336)
    assert plain.memory[0].optimizer - saving.memory[0].optimizer == 4 * matrices // 8
    # Each of the 5 iterations multiplies the smaller side twice with the larger, and once with itself.
    products = sum(2 * 4096**2 * long + 4096**3 for long in (4096 + 2 * 1024, 4096, 2 * 14336, 14336))
    # 8 data-parallel ranks share 32 layers.
    seconds = 5 * 32 / 8 * 2 * products / (0.62 * GPUS["h100"].bf16_tflops * 1e12)
    assert saving.parts["optimizer"][0] - plain.parts["optimizer"][0] == pytest.approx(seconds, rel=1e-9)
