"""The lexicon tool: filters with counts, a held-out part, refusals before anything is written."""

from pathlib import Path

import pytest

from megatron_prealign.lexicon import read_lexicon
from tools.clean_lexicon import main

DIRTY = "house haus\nhouse heim\nParis Paris\n42 zweiundvierzig\nx iks\nwater wasser\nsun солнце\ndog hund\n"


@pytest.fixture
def muse(tmp_path: Path) -> Path:
    path = tmp_path / "en-de.txt"
    path.write_text(DIRTY, encoding="utf-8")
    return path


def _run(muse: Path, *options: str) -> int:
    return main(["--input", str(muse), "--target-language", "de", "--output", str(muse.parent / "clean.tsv"), *options])


def test_filters_and_counts(muse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(muse) == 0
    lexicon = read_lexicon([muse.parent / "clean.tsv"], "en")
    pairs = [(word, translation.word, translation.language) for word, translation in lexicon.pairs()]
    assert pairs == [("house", "haus", "de"), ("house", "heim", "de"), ("water", "wasser", "de"), ("dog", "hund", "de")]
    report = capsys.readouterr().err
    for name in ("identity", "script", "non-letters", "one-letter"):
        (line,) = [line for line in report.splitlines() if f"dropped by {name}" in line]
        assert "1" in line


def test_filters_can_be_switched_off(muse: Path) -> None:
    assert _run(muse, "--no-identity", "--no-script", "--no-non-letters", "--no-one-letter") == 0
    assert len(read_lexicon([muse.parent / "clean.tsv"], "en")) == 7


def test_held_out_words_are_in_no_other_file(muse: Path) -> None:
    assert _run(muse, "--held-out-ratio", "0.5", "--output-held-out", str(muse.parent / "held.tsv"), "--seed", "2") == 0
    kept, held = (read_lexicon([muse.parent / name], "en") for name in ("clean.tsv", "held.tsv"))
    words = [{entry.word for entry in lexicon.entries} for lexicon in (kept, held)]
    assert words[0] | words[1] == {"house", "water", "dog"}
    assert not words[0] & words[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--held-out-ratio", "0.5"), "belong together"),
        (("--held-out-ratio", "1.5", "--output-held-out", "x.tsv"), "in [0, 1)"),
        (("--max-translations", "0"), "at least 1"),
    ],
)
def test_refusals(muse: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(muse, *options) == 2
    assert message in capsys.readouterr().err
    assert not (muse.parent / "clean.tsv").exists()


def test_nothing_is_overwritten_unasked(muse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(muse) == 0
    assert _run(muse) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert _run(muse, "--overwrite") == 0
