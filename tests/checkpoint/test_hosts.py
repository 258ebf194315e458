"""Hosts that share no disk each end up with every file of a checkpoint; those that do are left alone."""

import os
from pathlib import Path

import torch

from megatron_prealign.checkpoint.hosts import find_keepers, on_keepers, share_files
from megatron_prealign.platform import initialize_distributed, select_platform
from megatron_prealign.testing import run_distributed

CONTENT = b"shard of rank %d " * 5_000_000  # more than one chunk is sent


def _save(folders: list[Path]) -> tuple[list[int], list[str]]:
    """Write one file a rank, each rank into the folder of its host, and share them."""
    initialize_distributed(select_platform("cpu"))
    rank = torch.distributed.get_rank()
    os.environ["GROUP_RANK"] = str(folders.index(folders[rank]))
    folder = folders[rank]
    if rank == 0:
        folder.mkdir(parents=True)
    keepers = find_keepers(folder)
    (folder / f"__{rank}_0.distcp").write_bytes(CONTENT.replace(b"%d", str(rank).encode()))
    if rank == 0:
        (folder / ".metadata").write_text("contents")
    share_files(folder, keepers)
    on_keepers(keepers, (folder / f"kept_by_{rank}").touch)
    return keepers, sorted(path.name for path in folder.iterdir())


def test_every_host_gets_every_file_from_where_it_is(tmp_path: Path) -> None:
    first, second = tmp_path / "first" / "step", tmp_path / "second" / "step"
    results = run_distributed(_save, 3, [first, second, second])
    shards = [f"__{rank}_0.distcp" for rank in range(3)]
    assert [keepers for keepers, _ in results] == [[0, 1, 1]] * 3
    for folder, keeper in ((first, 0), (second, 1)):
        names = sorted(path.name for path in folder.iterdir())
        assert names == sorted([".metadata", *shards, f"kept_by_{keeper}"])
        for rank, name in enumerate(shards):
            assert (folder / name).read_bytes() == CONTENT.replace(b"%d", str(rank).encode())


def test_hosts_that_share_a_folder_have_one_keeper(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    for keepers, _ in run_distributed(_save, 2, [folder, folder]):
        assert keepers == [0, 0]
    assert sorted(path.name for path in folder.iterdir()) == [".metadata", "__0_0.distcp", "__1_0.distcp", "kept_by_0"]
