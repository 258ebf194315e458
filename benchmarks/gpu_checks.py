"""Check on one GPU what the tests prove on CPUs: a line for each check, PASS, FAIL or SKIP with its numbers.

    python -m benchmarks.gpu_checks                     # exit code 1 if a check fails
    python -m benchmarks.gpu_checks --only precisions   # one of them
    python -m benchmarks.gpu_checks --device cpu        # what does not need a GPU, on a tiny model

Each check is a process of its own, so that one that crashes fails alone. Models have random weights and data.
"""

import argparse
import gc
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu import Job, count_waits, make_step, make_trainer
from benchmarks.step_memory import values
from megatron_prealign.config import Config, config_from_dict
from megatron_prealign.config.counts import step_memory
from megatron_prealign.model import attention
from megatron_prealign.optional_packages import find_problems, is_usable
from megatron_prealign.platform import select_platform

Finding = tuple[bool | None, str]
"""Whether a check passed, None where it can't run, and what it saw."""
STEPS = 30
_FAST = ("flash", "fmha", "cudnn")


def _model(device: str) -> tuple[str, int, int]:
    """Return a preset, and the sequences of a step and their tokens."""
    return ("150m", 8, 1024) if device == "cuda" else ("tiny", 2, 64)


def _train(config: Config, steps: int) -> list[float]:
    """Return the losses of the first steps."""
    trainer = make_trainer(config, select_platform(config.training.device))
    losses = []
    for _ in range(steps):
        trainer.train_step()
        losses.append(float(trainer.stage.take_metrics()["lm_loss"]))
    return losses


def _config(device: str, layers: str = "local", **changes: dict[str, Any]) -> Config:
    preset, rows, length = _model(device)
    plain = values(preset, 1, rows, length, num_microbatches=1)
    found: dict[str, Any] = {section: dict(fields) for section, fields in plain.items()}
    found["model"]["transformer_impl"] = layers
    found["training"] |= {"device": device, "train_steps": STEPS}
    found["optimizer"], found["schedule"] = {"lr": 1e-3}, {"lr_warmup_steps": 5}
    for section, fields in changes.items():
        found.setdefault(section, {}).update(fields)
    return config_from_dict(found)


def packages(device: str) -> Finding:
    """Check that what is installed can be imported."""
    found = {name: is_usable(name) for name in ("transformer_engine", "apex", "fused_weight_gradient_mlp_cuda")}
    usable = ", ".join(name for name, is_there in found.items() if is_there) or "no fused package"
    problems = "; ".join(f"{name}: {problem}" for name, problem in find_problems().items() if problem)
    machine = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return (
        not problems,
        f"{machine}, torch {torch.__version__}, CUDA {torch.version.cuda}, {usable}{problems and '; '}{problems}",
    )


def precisions(device: str) -> Finding:
    """Compare losses of all precisions and layers with fp32 and local layers: within 2 percent, and falling."""
    kinds: dict[str, tuple[str, dict[str, Any]]] = {"bf16": ("local", {"precision": "bf16"})}
    if device == "cuda":
        kinds["fp16"] = "local", {"precision": "fp16"}
    if device == "cuda" and is_usable("transformer_engine"):
        kinds["bf16, Transformer Engine"] = "transformer_engine", {"precision": "bf16"}
        if torch.cuda.get_device_capability() >= (8, 9):
            kinds["fp8"] = "transformer_engine", {"precision": "bf16", "fp8": "hybrid"}
    exact = _train(_config(device, training={"precision": "fp32"}), STEPS)
    worst = {}
    for name, (layers, numbers) in kinds.items():
        losses = _train(_config(device, layers, training=numbers), STEPS)
        # The first steps of fp16 only look for a loss scale.
        pairs = zip(losses[-5:], exact[-5:], strict=True) if name == "fp16" else zip(losses, exact, strict=True)
        worst[name] = max(abs(loss / other - 1) for loss, other in pairs)
    shown = ", ".join(f"{name} {difference:.1e}" for name, difference in worst.items())
    falls = exact[-1] < 0.9 * exact[0]
    bound = 2e-2
    passed = falls and all(not math.isnan(difference) and difference < bound for difference in worst.values())
    return passed, f"loss {exact[0]:.3f} to {exact[-1]:.3f}; largest relative difference: {shown} (bound {bound})"


def documents(device: str) -> Finding:
    """Compare documents kept apart by kernels for segments with those behind a mask: losses within 0.2 percent."""
    if device != "cuda":
        return None, "masks everywhere on CPUs"
    apart = {"reset_attention_mask": True, "reset_position_ids": True, "seq_length": 2048}
    config = _config(device, data=apart, model={"max_position_embeddings": 2048})
    losses, peaks = [], []
    for is_masked in (False, True):
        with ExitStack() as stack:
            if is_masked:
                stack.enter_context(patch.object(attention, "_has_segment_kernel", lambda *_: False))
            gc.collect()  # the other trainer's memory would count
            torch.cuda.reset_peak_memory_stats()
            losses.append(_train(config, STEPS))
            peaks.append(torch.cuda.max_memory_allocated() / 2**30)
    worst = max(abs(loss / other - 1) for loss, other in zip(*losses, strict=True))
    passed = worst < 2e-3 and peaks[0] < peaks[1]
    return (
        passed,
        f"largest relative difference {worst:.1e} (bound 2e-3); peak {peaks[0]:.2f} GiB, masked {peaks[1]:.2f}",
    )


def waits(device: str) -> Finding:
    """Count how often the host waits for the GPU in a step: as often as on fake tensors."""
    if device != "cuda":
        return None, "a CPU is never waited for"
    found = {}
    for layers in ("local", "transformer_engine") if is_usable("transformer_engine") else ("local",):
        platform = select_platform("cuda")
        _, step = make_step(Job("ours", *_job(device, layers)), platform)
        for _ in range(3):
            step()
        found[layers] = count_waits(step)
    return all(count <= 2 for count in found.values()), f"{found} (bound 2)"


def _job(device: str, layers: str) -> tuple[str, str, str, str, str, int, int, int]:
    preset, rows, length = _model(device)
    return preset, "pretrain", "bf16" if device == "cuda" else "fp32", layers, device, rows, length, 1


def kernels(device: str) -> Finding:
    """Look in a trace for fused attention, and for none that stores scores."""
    if device != "cuda":
        return None, "kernels of GPUs"
    found: dict[str, list[str]] = {}
    for layers in ("local", "transformer_engine") if is_usable("transformer_engine") else ("local",):
        platform = select_platform("cuda")
        _, step = make_step(Job("ours", *_job(device, layers)), platform)
        step()
        with profile(activities=[ProfilerActivity.CUDA]) as trace:
            step()
            platform.synchronize()
        names = {event.key.lower() for event in trace.key_averages()}
        found[layers] = sorted({word for word in (*_FAST, "softmax") for name in names if word in name})
    passed = all(set(words) & set(_FAST) and "softmax" not in words for words in found.values())
    return passed, f"{found}"


def memory(device: str) -> Finding:
    """Compare the peak of a step with the estimate of tools/plan.py: within a quarter."""
    if device != "cuda":
        return None, "counts bytes of GPUs"
    config = _config(device)
    torch.cuda.reset_peak_memory_stats()
    _train(config, 3)
    peak = torch.cuda.max_memory_allocated()
    ratio = peak / step_memory(config, 1)[0].total
    return 0.75 < ratio < 1.25, f"peak {peak / 2**30:.2f} GiB, {ratio:.2f} of the estimate (bounds 0.75, 1.25)"


def tests(device: str) -> Finding:
    """Run the tests that need a GPU."""
    if device != "cuda":
        return None, "tests of GPUs"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "tests"]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    return child.returncode == 0, child.stdout.strip().splitlines()[-1]


CHECKS: dict[str, Callable[[str], Finding]] = {
    check.__name__: check for check in (packages, kernels, waits, memory, precisions, documents, tests)
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(CHECKS), choices=CHECKS, help="checks (default: all)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="(default: cuda)")
    parser.add_argument("--here", choices=CHECKS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.here:
        print(json.dumps(CHECKS[options.here](options.device)))
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu")
    failed = 0
    for name in options.only:
        passed, seen = _run(name, options.device)
        failed += passed is False
        print(f"{ {True: 'PASS', False: 'FAIL', None: 'SKIP'}[passed] }  {name}: {seen}", flush=True)
    return int(failed > 0)


def _run(name: str, device: str) -> Finding:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_checks", "--device", device, "--here", name]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        return False, (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
    passed, seen = json.loads(child.stdout.splitlines()[-1])
    return passed, seen


if __name__ == "__main__":
    raise SystemExit(main())
