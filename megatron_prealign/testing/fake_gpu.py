"""One rank's training step on fake CUDA tensors: what it keeps in memory, and where it waits for the device.

The trainer's own code runs as on a rank of a cluster. Tensors of the device are fake: they have shapes and types but no
numbers, and no kernel runs. Tensors of the host are real. torch's fake process group answers collectives. Neither a GPU
nor torch's CUDA build is needed, only a C++ compiler for the few lines of `fake_cuda.cpp`.

`run_fake_steps` starts a child process, because torch must be imported after that library.
"""

import contextlib
import ctypes
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import megatron.core
import torch
from torch import Tensor
from torch._C._distributed_c10d import FakeWork
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megatron_prealign.config import Config, config_from_dict
from megatron_prealign.errors import PrealignError
from megatron_prealign.model import build
from megatron_prealign.platform import Mesh, Platform, initialize_model_parallel, shut_down_distributed
from megatron_prealign.platform.cpu import pretending_cuda
from megatron_prealign.testing.trainers import make_random_trainer
from megatron_prealign.training.loop import Trainer
from megatron_prealign.training.optimizer import build_optimizer, wrap_data_parallel

CUDA = torch.device("cuda", 0)
Values = Mapping[str, Mapping[str, Any]]
_SOURCE = Path(__file__).with_name("fake_cuda.cpp")
_ROOTS = {f"{Path(__file__).parents[1]}/": "", f"{Path(megatron.core.__file__).parent}/": "core/"}
# Blocks of the caching allocator are multiples of this.
_GRANULARITY = 512
_COPIES = ("_to_copy", "copy_")
_READS = {"_local_scalar_dense": 0.0, "equal": True, "is_nonzero": False}
# What reading the device returns is zero, unless a check refuses that.
_READ_AS_ONE = ("check_gradients", "_global_norm", "take_metrics")


@dataclass(frozen=True)
class FakeRun:
    """A rank to run: a configuration with every size given, and the rank of how many."""

    values: Values
    world_size: int = 1
    rank: int = 0
    change: str = ""
    """`module:function`, called with the trainer, returns a context of its steps: a test's fault."""


@dataclass
class FakeReport:
    """What a rank did; places are `file:function` below their package."""

    memory: dict[str, int] = field(default_factory=dict)
    """Bytes: weights, gradients and optimizer, which stay; step, the most that is kept beside them; peak, all."""
    waits: dict[str, int] = field(default_factory=dict)
    """How often the host waits for the device in a step."""
    record_waits: dict[str, int] = field(default_factory=dict)
    """The same in a step with its checks and its record."""
    uploads: dict[str, int] = field(default_factory=dict)
    """Operators of a step that take a tensor of the host to the device."""
    collectives: dict[str, int] = field(default_factory=dict)
    """By operator, in a step."""


def place() -> str:
    """Return the file and function of ours or megatron-core's that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        # Python 3.11 gives comprehensions frames of their own, later ones do not.
        if not path.endswith(("testing/fake_gpu.py", "platform/cpu.py")) and not name.startswith("<"):
            for root, prefix in _ROOTS.items():
                if path.startswith(root):
                    return f"{prefix}{path.removeprefix(root)}:{name}"
        frame = frame.f_back
    return "elsewhere"


class FakeDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operators on the host for real, and those of the device on fake tensors, whose bytes it counts."""

    def __init__(self) -> None:
        """Start without tensors."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._alive: dict[int, int] = {}
        self.bytes = self.peak = 0
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.collectives: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        device = kwargs.get("device")
        is_upload = device is not None and torch.device(device).type == "cuda"
        hosts = [tensor for tensor in tensors if not isinstance(tensor, FakeTensor)]
        if not is_upload and len(hosts) == len(tensors):
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if func.namespace == "c10d":
            self.collectives[name] += 1
            # All of them write to their first argument, and most return it too.
            done = [FakeWork().boxed() if "Work" in str(part.type) else args[0] for part in func._schema.returns]
            return done[0] if len(done) == 1 else tuple(done)
        if name in _READS:
            self.waits[place()] += 1
            return _answer(_READS[name])
        if name == "_to_copy" and device is not None and not is_upload:
            self.waits[place()] += 1
            return torch.full(args[0].shape, _answer(0.0), dtype=kwargs.get("dtype") or args[0].dtype)
        if name == "copy_" and not isinstance(args[0], FakeTensor):
            self.waits[place()] += 1
            return args[0].fill_(_answer(0.0))
        # A kernel takes a number of the host as its argument; all else is copied to the device first.
        if hosts and (name in _COPIES or any(tensor.dim() for tensor in hosts)):
            self.uploads[place()] += 1
            if not (kwargs.get("non_blocking") or args[2:3] == (True,)):
                self.waits[place()] += 1
        with self._fake:
            result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, FakeTensor):
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = -(-storage.nbytes() // _GRANULARITY) * _GRANULARITY
        self._alive[key] = size
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.bytes -= self._alive.pop(key)

    def note_wait(self) -> None:
        """Count a wait for the device."""
        self.waits[place()] += 1

    def to_list(self, tensor: Tensor) -> Any:
        """Read a fake tensor as `Tensor.tolist` does: one wait, whatever its size."""
        self.note_wait()
        return torch.full(tensor.shape, _answer(0.0), dtype=tensor.dtype).tolist()


def _answer(usual: Any) -> Any:
    return 1.0 if place().endswith(_READ_AS_ONE) else usual


@contextlib.contextmanager
def fake_rank(rank: int, world_size: int) -> Iterator[FakeDevice]:
    """Be a rank of a fake cluster inside the context."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    ctypes.CDLL(None).use_fake_guard()
    # torch.tensor then copies numbers from the host where the mode sees it.
    torch._C._set_only_lift_cpu_tensors(True)
    device = FakeDevice()
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    with (
        pretending_cuda(device.note_wait),
        patch.object(FakeTensor, "tolist", lambda tensor: device.to_list(tensor)),
        device,
    ):
        try:
            yield device
        finally:
            shut_down_distributed()


def _make_trainer(config: Config, mesh: Mesh, device: FakeDevice, memory: dict[str, int]) -> Trainer:
    """Build the trainer of a configuration over random data, and note the bytes of its parts."""
    # Draws of initial weights would be made on the host, in vain.
    with patch.object(build, "initialize_parameters", lambda *_: None), CUDA:
        chunks = build.build_model_chunks(config, CUDA)
    memory["weights"] = device.bytes
    chunks = wrap_data_parallel(chunks, config)
    memory["gradients"] = device.bytes - sum(memory.values())
    optimizer = build_optimizer(chunks, config)
    memory["optimizer"] = device.bytes - sum(memory.values())
    return make_random_trainer(config, mesh, Platform("cuda", "nccl", CUDA), chunks, optimizer)


def _changed(change: str, trainer: Trainer) -> contextlib.AbstractContextManager[None]:
    if not change:
        return contextlib.nullcontext()
    module, _, name = change.partition(":")
    return getattr(importlib.import_module(module), name)(trainer)  # type: ignore[no-any-return]


def _run(run: FakeRun) -> FakeReport:
    """Run a step, and another one with its record, on a rank."""
    os.environ["WORLD_SIZE"] = str(run.world_size)
    config, report = config_from_dict(run.values), FakeReport()
    with fake_rank(run.rank, run.world_size) as device:
        mesh = initialize_model_parallel(config.parallel, config.training.seed)
        trainer = _make_trainer(config, mesh, device, report.memory)
        for counted in (device.waits, device.uploads, device.collectives):
            counted.clear()
        with _changed(run.change, trainer):
            device.peak = device.bytes
            trainer.train_step()
            report.waits, report.uploads = dict(device.waits), dict(device.uploads)
            report.collectives = dict(device.collectives)
            device.waits.clear()
            norm = trainer.train_step()
            report.memory["step"] = device.peak - sum(report.memory.values())
            report.memory["peak"] = device.peak
            trainer._record(norm)
            report.record_waits = dict(device.waits)
    return report


def run_fake_steps(runs: Sequence[FakeRun]) -> list[FakeReport]:
    """Run steps of several ranks, in a child process that forks one process a core.

    Raises:
        PrealignError: There is no C++ compiler, or a step failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = _compile(Path(folder))
        # Fusions of megatron-core that torch would compile run as they are written.
        environment = {**os.environ, "LD_PRELOAD": str(library), "TORCHDYNAMO_DISABLE": "1", "RANK": "0"}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        child = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps([asdict(run) for run in runs]),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if child.returncode:
        raise PrealignError(f"a step on fake tensors failed:\n{child.stderr}")
    return [FakeReport(**report) for report in json.loads(child.stdout.splitlines()[-1])]


def _compile(folder: Path) -> Path:
    library = folder / "fake_cuda.so"
    torch_folder = Path(torch.__file__).parent
    paths = [f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}", f"-Wl,-rpath,{torch_folder / 'lib'}"]
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, "-std=c++20", "-shared", "-fPIC", str(_SOURCE), "-o", str(library), *paths]
    try:
        subprocess.run([*command, "-lc10", "-ltorch_cpu"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or error
        raise PrealignError(
            f"steps on fake tensors need a C++ compiler (on Debian: apt-get install g++; CXX names another): {reason}"
        ) from None
    return library


if __name__ == "__main__":
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        reports = list(pool.map(_run, [FakeRun(**run) for run in json.load(sys.stdin)]))
    print(json.dumps([asdict(report) for report in reports]))
