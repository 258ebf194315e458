"""Hosts that share no disk: each keeps whole checkpoints of its own, from which any layout can go on.

A keeper is the rank that looks after the checkpoints of its host: rank 0, and on each host that does not see rank 0's
folder the first rank there. Where all hosts share the folder, rank 0 is the only one.
"""

import os
import socket
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from megatron_prealign.platform.agreement import failing_together, from_all_ranks, on_first_rank

_CHUNK_BYTES = 1 << 26


def find_keepers(folder: Path) -> list[int]:
    """Return for each rank its keeper, and make the folder on the hosts that don't see it; collective.

    Args:
        folder: exists and is empty on the host of rank 0.

    Raises:
        PrealignError: A host can't make it; raised on all ranks.
    """

    def leave_mark() -> str:
        # A name that no network file system has cached the absence of.
        mark = folder / f".seen-{uuid.uuid4().hex}"
        mark.touch()
        return mark.name

    mark = folder / on_first_rank(leave_mark)
    found = from_all_ranks((mark.exists(), _host()))
    on_first_rank(mark.unlink)
    apart: dict[str, int] = {}
    for rank, (sees, host) in enumerate(found):
        if not sees:
            apart.setdefault(host, rank)
    keepers = [0 if sees else apart[host] for sees, host in found]
    on_keepers(keepers, lambda: folder.mkdir(parents=True, exist_ok=True))
    return keepers


def on_keepers(keepers: Sequence[int], function: Callable[[], object]) -> None:
    """Call a function on every keeper; collective.

    Raises:
        PrealignError: It failed on one; raised on all ranks.
    """
    with failing_together():
        if torch.distributed.get_rank() in keepers:
            function()


def share_files(folder: Path, keepers: Sequence[int]) -> None:
    """Bring every keeper the files of a sharded state dict that were written on other hosts; collective.

    Args:
        folder: where the files are, and come to.
        keepers: of each rank its keeper.
    """
    if len(set(keepers)) == 1:
        return
    rank = torch.distributed.get_rank()
    paths = [*folder.glob(f"__{rank}_*"), *(path for path in folder.iterdir() if rank == 0 and path.name[:2] != "__")]
    sizes = from_all_ranks({path.name: path.stat().st_size for path in paths})
    for source, written in enumerate(sizes):
        for target in sorted(set(keepers) - {keepers[source]}):
            for name, size in written.items():
                if rank == source:
                    _send(folder / name, target)
                elif rank == target:
                    _receive(folder / name, size, source)


def _host() -> str:
    """Return what tells hosts apart: torchrun's number of the node, or the name."""
    return os.environ.get("GROUP_RANK", socket.gethostname())


def _device() -> torch.device:
    return torch.device("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")


def _send(path: Path, target: int) -> None:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            torch.distributed.send(torch.frombuffer(bytearray(chunk), dtype=torch.uint8).to(_device()), target)


def _receive(path: Path, size: int, source: int) -> None:
    with path.open("wb") as stream:
        for start in range(0, size, _CHUNK_BYTES):
            chunk = torch.empty(min(_CHUNK_BYTES, size - start), dtype=torch.uint8, device=_device())
            torch.distributed.recv(chunk, source)
            stream.write(chunk.cpu().numpy().tobytes())
        stream.flush()
        os.fsync(stream.fileno())
