"""The runner of all examples: finished steps are reused, other experiments refused, failures stop what runs beside."""

import io
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from examples.commands import make_bake
from examples.steps import Runner, Step, StepError


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path, Console(file=io.StringIO(), width=200), {"SHOWN": "from the environment"})


def shown(runner: Runner) -> str:
    """Return what the runner showed, and forget it."""
    assert isinstance(runner.console.file, io.StringIO)
    text = runner.console.file.getvalue()
    runner.console.file.truncate(0)
    return text


def step(name: str, code: str, *outputs: Path, **options: object) -> Step:
    """Make a step that runs Python code."""
    return Step(name, (sys.executable, "-c", code), outputs, **options)  # type: ignore[arg-type]


def append(path: Path) -> str:
    """Return code that appends a letter to a file, so that runs can be counted."""
    return f"open({str(path)!r}, 'a').write('x')"


def test_a_finished_step_is_reused(runner: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runner.run(step("one", append(out), out))
    shown(runner)
    runner.run(step("one", append(out), out))
    assert out.read_text() == "x"
    assert "reusing" in shown(runner)


def test_a_step_finds_the_folder_of_its_outputs(runner: Runner, tmp_path: Path) -> None:
    out = tmp_path / "data/language/out"
    runner.run(step("one", append(out), out))
    assert out.read_text() == "x"


def test_a_step_whose_output_is_gone_runs_again(runner: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runner.run(step("one", append(out), out))
    out.unlink()
    runner.run(step("one", append(out), out))
    assert out.read_text() == "x"


def test_a_step_whose_output_is_not_whole_runs_again(runner: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def want(letters: int) -> None:
        runner.run(step("one", append(out), is_whole=lambda: len(out.read_text()) >= letters))
        assert out.read_text() == letters * "x"

    want(1)
    want(1)
    want(2)


def test_another_command_is_refused_and_replaced_only_on_demand(runner: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runner.run(step("one", append(out), out))
    other = step("one", append(out) + ";1", out)
    with pytest.raises(StepError, match="--redo"):
        runner.run(other)
    assert out.read_text() == "x"
    replace(runner, redo=True).run(other)
    assert out.read_text() == "x"


def test_other_arguments_are_fine_where_a_failed_step_left_nothing(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(StepError):
        runner.run(step("one", "raise SystemExit(2)", tmp_path / "out"))
    runner.run(step("one", append(tmp_path / "out"), tmp_path / "out"))
    assert (tmp_path / "out").exists()


def test_a_change_upstream_or_of_a_configuration_changes_the_fingerprint(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("a: 1")
    first = step("one", "1", inputs=(config,))
    second = step("two", "2", depends_on=(first,))
    before = second.fingerprint
    assert step("two", "2", depends_on=(step("one", "1;1", inputs=(config,)),)).fingerprint != before
    config.write_text("a: 2")
    assert second.fingerprint != before


def test_another_interpreter_makes_the_same(tmp_path: Path) -> None:
    here, elsewhere = (Step("one", (python, "tool.py"), (tmp_path / "out",)) for python in ("here", "elsewhere"))
    assert here.fingerprint == elsewhere.fingerprint


@pytest.mark.parametrize(("resumable", "content"), [(True, "xx"), (False, "x")])
def test_only_resumable_steps_keep_what_an_interrupted_call_left(
    runner: Runner, tmp_path: Path, resumable: bool, content: str
) -> None:
    out, switch = tmp_path / "out", tmp_path / "switch"
    code = append(out) + f"\nimport os, sys\nsys.exit(0 if os.path.exists({str(switch)!r}) else 3)"
    with pytest.raises(StepError, match="code 3"):
        runner.run(step("one", code, out, resumable=resumable))
    switch.touch()
    runner.run(step("one", code, out, resumable=resumable))
    assert out.read_text() == content


def test_lines_are_shown_with_their_label_and_logged(runner: Runner, tmp_path: Path) -> None:
    code = "import os, sys; print('[markup] stays'); print(os.environ['SHOWN'], file=sys.stderr)"
    runner.run(step("one", code), "joint")
    text = shown(runner)
    assert "[joint] [markup] stays" in text
    assert "[joint] from the environment" in text
    assert "[markup] stays" in (tmp_path / "logs/one.log").read_text()


def test_a_failure_repeats_the_error_line_of_the_command(runner: Runner) -> None:
    code = "import sys; print('error: mend this'); print('Traceback of a launcher'); sys.exit(2)"
    with pytest.raises(StepError, match=r"code 2: mend this \(log: "):
        runner.run(step("one", code))


def test_a_step_that_makes_nothing_is_a_failure(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="did not write"):
        runner.run(step("one", "pass", tmp_path / "none"))


def test_a_failure_stops_the_other_chain_and_is_the_one_reported(runner: Runner) -> None:
    def waits() -> Iterator[Step]:
        yield step("waits", "import time; time.sleep(100)")

    def fails() -> Iterator[Step]:
        yield step("fails", "raise SystemExit(7)")

    start = time.monotonic()
    with pytest.raises(StepError, match="'fails' ended with code 7"):
        runner.run_side_by_side({"joint": waits(), "prealign": fails()}, num_workers=2)
    assert time.monotonic() - start < 60


def test_a_failure_that_is_taken_stops_no_other_chain(runner: Runner, tmp_path: Path) -> None:
    def fails() -> Iterator[Step]:
        yield step("fails", "raise SystemExit(7)")
        raise AssertionError("goes on after a failure")

    failed: dict[str, str] = {}
    chains = {"a": fails(), "b": iter([step("two", append(tmp_path / "out"), tmp_path / "out")])}
    runner.run_side_by_side(chains, 1, lambda label, error: failed.update({label: str(error)}))
    assert list(failed) == ["a"] and "'fails' ended with code 7" in failed["a"]
    assert (tmp_path / "out").read_text() == "x"


def test_of_two_runners_one_runs_a_step_and_the_other_waits_and_reuses_it(runner: Runner, tmp_path: Path) -> None:
    out, go = tmp_path / "out", tmp_path / "go"
    code = f"{append(out)}\nimport os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    with ThreadPoolExecutor(2) as pool:
        other = replace(runner, console=Console(file=io.StringIO(), width=200), _stopped=threading.Event())
        running = pool.submit(runner.run, step("shared", code, out))
        while not out.exists():
            time.sleep(0.01)
        waiting = pool.submit(other.run, step("shared", code, out), "mine")
        assert isinstance(other.console.file, io.StringIO)
        try:
            while "[mine] waits for shared" not in other.console.file.getvalue():
                assert out.read_text() == "x"
                time.sleep(0.01)
        finally:
            go.touch()
        running.result(timeout=60)
        waiting.result(timeout=60)
    assert out.read_text() == "x"
    assert "reusing" in shown(other)


def test_who_waits_for_another_runner_can_be_stopped(runner: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(runner.run, step("shared", f"{append(out)}; import time; time.sleep(100)", out))
        while not out.exists():
            time.sleep(0.01)
        other = replace(runner, console=Console(file=io.StringIO()), _stopped=threading.Event())
        waiting = pool.submit(other.run, step("shared", "pass", out))
        other.stop()
        assert isinstance(waiting.exception(timeout=60), InterruptedError)
        runner.stop()
        assert isinstance(running.exception(timeout=60), InterruptedError)


def test_chains_run_side_by_side(runner: Runner, tmp_path: Path) -> None:
    def chain(mine: str, others: str) -> Iterator[Step]:
        wait = (
            f"import pathlib, time; pathlib.Path({str(tmp_path / mine)!r}).touch()\n"
            f"while not pathlib.Path({str(tmp_path / others)!r}).exists(): time.sleep(0.01)"
        )
        yield step(mine, wait, tmp_path / mine)

    runner.run_side_by_side({"joint": chain("a", "b"), "prealign": chain("b", "a")}, num_workers=2)
    assert "a done" in shown(runner)


def test_a_bake_replaces_all_files_of_another(runner: Runner, workspace: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the house and the dog and the sun\n" * 20, encoding="utf-8")
    tokenizer = ["--input", text, "--tokenizer-model", workspace / "tok"]
    lexicon = ["--lexicon", workspace / "lexicon.tsv", "--source-language", "en", "--codeswitch-ratio", 1]
    runner.run(make_bake("bake", tmp_path / "a", [*tokenizer, *lexicon]))
    switches = tmp_path / "a_text_document.switch.bin"
    runner.redo, before = True, switches.exists() and switches.read_bytes()
    runner.run(make_bake("bake", tmp_path / "a", [*tokenizer, *lexicon, "--seed", 2]))
    assert before and switches.exists()
    runner.run(make_bake("bake", tmp_path / "a", tokenizer))
    assert not switches.exists()
