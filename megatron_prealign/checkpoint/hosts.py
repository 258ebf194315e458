"""Checkpoints of hosts without a shared disk: each host keeps complete copies, from which every layout can resume.

A keeper is the rank that manages the checkpoints of its host: rank 0, and the first rank of each host that does not see
rank 0's folder. If all hosts share the folder, rank 0 is the only keeper.
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
    """Return each rank's keeper, and create rank 0's empty folder on hosts that do not see it; collective.

    Raises:
        PrealignError: a host can't create it; raised on all ranks.
    """

    def leave_mark() -> str:
        # A new name: a network file system may have cached that an old one does not exist.
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
        PrealignError: it failed on one rank; raised on all ranks.
    """
    with failing_together():
        if torch.distributed.get_rank() in keepers:
            function()


def share_files(folder: Path, keepers: Sequence[int]) -> None:
    """Copy the files of a sharded state dict to the same folder of each keeper on another host; collective."""
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
    """Return torchrun's node number, or the host name."""
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
