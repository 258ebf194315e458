"""A bake that is killed at any instant leaves nothing under a final name, and goes on to the same bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_prealign.bake.verify import verify
from megatron_prealign.dataset.manifest import read_manifest

ROOT = Path(__file__).parents[2]
# How often the test kills; PREALIGN_KILLS=50 for the long form.
NUM_KILLS = int(os.environ.get("PREALIGN_KILLS", "3"))
SUFFIXES = (".bin", ".idx", ".switch.bin", ".switch.idx", ".json")


def command(folder: Path, name: str, *options: str) -> list[str]:
    """Return a bake in small pieces."""
    code = (
        "import signal, sys; from megatron_prealign.text import files; files._MIN_PIECE_BYTES = 20_000; "
        # A shell starts what it puts into the background with the interrupt ignored, and children inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from tools.preprocess_codeswitch import main; sys.exit(main(sys.argv[1:]))"
    )
    named = ["--input", f"{folder}/a.jsonl", "--tokenizer-model", f"{folder}/tok", "--lexicon", f"{folder}/lexicon.tsv"]
    named += ["--codeswitch-ratio", "0.2", "--backend", "reference", "--output-prefix", f"{folder}/{name}"]
    return [sys.executable, "-c", code, *named, "--workers", "2", *options]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start a bake in a session of its own."""
    return subprocess.Popen(
        arguments, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def processes_of(session: int) -> list[int]:
    """Return the processes of a session that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_for_workers(parent: subprocess.Popen[bytes]) -> None:
    """Check that workers end with their parent."""
    deadline = time.monotonic() + 20
    while processes_of(parent.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_publishing(path: Path) -> bool:
    """Tell whether a bake has come to giving its files their names, one after the other."""
    return path.exists() and bool(json.loads(path.read_text(encoding="utf-8"))["overwrite"])


@pytest.fixture
def folder(tmp_path: Path, documents: list[str], bpe_folder: Path) -> Path:
    """A corpus of some dozen pieces, a tokenizer and a lexicon."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "lexicon.tsv").write_text("the\tdie\tde\nof\tvon\tde\n", encoding="utf-8")
    (tmp_path / "tok").symlink_to(bpe_folder)
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for left-over processes in /proc")
@pytest.mark.timeout(60 + 60 * NUM_KILLS)
def test_killed_at_random_instants_and_resumed(folder: Path) -> None:
    started = time.monotonic()
    subprocess.run(command(folder, "whole"), cwd=ROOT, check=True, capture_output=True)
    seconds = time.monotonic() - started
    whole = read_manifest(folder / "whole_text_document")
    rng = random.Random(1)
    for attempt in range(NUM_KILLS):
        name = f"killed-{attempt}"
        options: tuple[str, ...] = ()
        for _ in range(10):
            process = start(command(folder, name, *options))
            try:
                code = process.wait(timeout=rng.uniform(0.3, 1.0) * seconds)
                break
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
            is_left = (folder / f".{name}_text_document.bake").exists()
            if not is_left and (folder / f"{name}_text_document.json").exists():
                code = 0  # killed behind the last step
                break
            if not is_publishing(folder / f".{name}_text_document.bake" / "job.json"):
                assert not any(Path(f"{folder}/{name}_text_document{suffix}").exists() for suffix in SUFFIXES)
            options = ("--resume",)
            wait_for_workers(process)
        else:
            code = subprocess.run(command(folder, name, *options), cwd=ROOT, capture_output=True).returncode
        assert code == 0, process.stderr and process.stderr.read()
        assert read_manifest(folder / f"{name}_text_document").content == whole.content
        assert verify(folder / f"{name}_text_document") == []


def wait_for_a_piece(folder: Path) -> subprocess.Popen[bytes]:
    """Start a bake; return when its first piece is finished."""
    process = start(command(folder, "stopped"))
    while not list(folder.glob(".stopped_text_document.bake/shards/*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    return process


def check_ended(process: subprocess.Popen[bytes], folder: Path) -> str:
    """Check that all processes of a bake have ended and that it left no dataset; return what it said."""
    error = process.communicate(timeout=60)[1].decode()
    wait_for_workers(process)
    assert not any(Path(f"{folder}/stopped_text_document{suffix}").exists() for suffix in SUFFIXES)
    assert "Traceback" not in error
    return error


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_killed_worker_and_an_interrupt_end_the_bake_with_a_message(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes((folder / "a.jsonl").read_bytes() * 24)  # the bake must last longer than a look
    process = wait_for_a_piece(folder)
    worker = next(
        pid for pid in processes_of(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(worker, signal.SIGKILL)
    assert "a worker process died" in check_ended(process, folder)
    assert process.returncode == 2
    shutil.rmtree(folder / ".stopped_text_document.bake")
    process = wait_for_a_piece(folder)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl+C does
    error = check_ended(process, folder)
    assert process.returncode == 130 and "error: interrupted" in error and "continue with --resume" in error
    assert subprocess.run(command(folder, "stopped", "--resume"), cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="limits memory as Linux does")
def test_memory_that_runs_out_ends_the_bake(folder: Path) -> None:
    small = "import resource; resource.setrlimit(resource.RLIMIT_AS, (800_000_000, 800_000_000)); "
    arguments = command(folder, "stopped")
    arguments[arguments.index("-c") + 1] = small + arguments[arguments.index("-c") + 1]
    long = json.dumps({"text": "words-and-words-" * 350_000})
    (folder / "a.jsonl").write_text((folder / "a.jsonl").read_text(encoding="utf-8") + long + "\n", encoding="utf-8")
    process = start(arguments)
    assert "out of memory" in check_ended(process, folder)
    assert process.returncode == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_ends_the_bake(folder: Path) -> None:
    small = folder / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"can't mount a tmpfs here ({mounted.stderr.decode().strip()})")
    try:
        result = subprocess.run(command(folder, "small/en"), cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 2
        assert "no space left on the disk" in result.stderr and "Traceback" not in result.stderr
        assert [path.name for path in small.iterdir() if not path.name.startswith(".")] == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
