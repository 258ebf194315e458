"""What a person sees of a run: a bar on a terminal, plain lines in a file."""

import io
import os
import pty
import re
from contextlib import suppress
from typing import Any

import pytest
from rich.console import Console

from megatron_prealign.training.metrics import RunProgress, progress_line

TRAIN: dict[str, Any] = {
    "kind": "train",
    "stage": "pretrain",
    "steps": 5000,
    "step": 120,
    "lm_loss": 4.125,
    "learning_rate": 3e-4,
    "gradient_norm": 0.75,
    "tokens_per_second": 12345.6,
    "mfu": 0.412,
    "seconds_left": 93784.0,
}
VALID: dict[str, Any] = {
    "kind": "valid",
    "stage": "pretrain",
    "steps": 5000,
    "step": 120,
    "loss": {"en": 3.5, "de": 4.0},
}
TRAIN_PARTS = "lm 4.1250  lr 3.00e-04  grad 0.750  12,346 tok/s  MFU 41.2%  left 1d02h"
MESSAGE = "saved [runs]/a:b:/step_0000120, " + "a long path " * 10 + "end"


def _run(console: Console) -> None:
    progress = RunProgress("pretrain", 5000, 100, console)
    progress.advance(119)
    progress.show(TRAIN)
    progress.show(VALID)
    progress.say(MESSAGE)
    progress.close()


def test_a_file_gets_a_plain_line_a_record() -> None:
    stream = io.StringIO()
    _run(Console(file=stream, width=80))
    assert stream.getvalue().splitlines() == [
        f"pretrain    120/5000  {TRAIN_PARTS}",
        "pretrain    120/5000  validation loss  en 3.5000  de 4.0000",
        MESSAGE,
    ]


def _read_all(leader: int) -> str:
    """Return what was written to a pseudo-terminal whose other side is closed; one read may bring a part only."""
    shown = b""
    with os.fdopen(leader, "rb", buffering=0) as terminal, suppress(OSError):  # EIO: nothing is left
        while part := terminal.read(1 << 16):
            shown += part
    return shown.decode()


def test_a_terminal_gets_a_bar_with_lines_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        console = Console(file=stream, width=160)
        _run(console)
    shown = _read_all(leader)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r", "")
    assert "\x1b[?25l" in shown and "\x1b[?25h" in shown  # the cursor is hidden, then back
    assert "100/5000" in plain
    assert f"120/5000 {TRAIN_PARTS}" in plain.splitlines()[-1]
    assert "validation loss  en 3.5000  de 4.0000" in plain
    assert plain.count("lm 4.1250") >= 1
    assert not any(line.startswith("pretrain    120/5000  lm") for line in plain.splitlines())
    assert MESSAGE in plain


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0m00s"), (119.6, "2m00s"), (3599.6, "1h00m"), (86_399.0, "23h59m"), (2e6, "23d03h")]
)
def test_time_left(seconds: float, shown: str) -> None:
    assert progress_line({**TRAIN, "seconds_left": seconds}).endswith(f"left {shown}")
