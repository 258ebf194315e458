"""What all tools share: interrupts, empty paths, errors of the system."""

import argparse
import errno
import importlib
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from megatron_prealign.command_line import describe, tool
from megatron_prealign.errors import DataError
from tools import build_lexicon, preprocess_codeswitch

TOOLS = Path(__file__).parents[1] / "tools"


def test_an_interrupt_ends_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    @tool
    def interrupted(argv: Sequence[str] | None = None) -> int:
        raise KeyboardInterrupt

    assert interrupted([]) == 130 and capsys.readouterr().err == "error: interrupted\n"
    assert tool(lambda argv: 2)([]) == 2


def test_a_terminated_tool_says_so_too() -> None:
    code = (
        "import time; from megatron_prealign.command_line import tool\n"
        "raise SystemExit(tool(lambda argv: print('ready', flush=True) or time.sleep(60))(None))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(timeout=30) == 130 and process.stderr.read() == b"error: interrupted\n"


def test_an_empty_path_is_not_the_current_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for main, arguments in (
        (preprocess_codeswitch.main, ["--input", ""]),
        (build_lexicon.main, ["dictionaries", "--output", " "]),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "the path is empty" in capsys.readouterr().err


def test_errors_name_the_file_and_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        (tmp_path / "absent").open()
    assert describe(missing.value) == f"{tmp_path / 'absent'}: no such file or directory"
    assert describe(DataError(["a", "b"])) == "2 problems:\n  - a\n  - b"
    full = OSError(errno.ENOSPC, "No space left on device", "a.bin")
    assert describe(full) == "a.bin: no space left on the disk; free some space and start again"
    with Path("/dev/full").open("wb") as stream, pytest.raises(OSError) as short:
        np.ones(1 << 20).tofile(stream)
    assert describe(short.value).startswith("no space left on the disk")
    assert describe(io.UnsupportedOperation("fileno")) == "fileno"


@pytest.mark.parametrize("name", sorted(path.stem for path in TOOLS.glob("*.py") if "build_parser" in path.read_text()))
def test_an_option_given_twice_adds_to_what_it_had(name: str) -> None:
    parsers = [importlib.import_module(f"tools.{name}").build_parser()]
    while parsers:
        for action in parsers.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
            elif action.option_strings and action.nargs == "+" and not action.default:
                assert isinstance(action, argparse._ExtendAction), action.option_strings


def test_other_encodings_than_utf8_are_refused() -> None:
    code = "from tools.verify_dataset import main; raise SystemExit(main(['absent']))"
    plain = {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    result = subprocess.run([sys.executable, "-c", code], env=os.environ | plain, capture_output=True, text=True)
    assert result.returncode == 2 and "reads arguments and file names as ascii; unset PYTHONUTF8=0" in result.stderr


def test_names_that_are_not_utf8_can_be_printed() -> None:
    code = "from megatron_prealign.command_line import tool; tool(lambda argv: print('caf\\udce9') or 0)([])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stdout == b"caf\\udce9\n"
