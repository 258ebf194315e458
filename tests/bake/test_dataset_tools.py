"""The tools that look at, verify and merge datasets, as a user calls them; planted corruptions are all found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_prealign.dataset.manifest import Manifest, manifest_path, read_manifest
from tests.bake.damage import edit, put
from tests.dataset.baked import bake_switched
from tools import inspect_dataset, merge_datasets, verify_dataset

TEXTS = ["the bank is here", "", "is the statement of the bank", "class <b>", "the the the"]
IDX_SEQUENCES = 34  # lengths begin behind the header; 4 sequences, as the empty document has none
IDX_POINTERS = IDX_SEQUENCES + 4 * 4
IDX_DOCUMENT_ENDS = IDX_POINTERS + 8 * 4

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, bpe_folder: Path) -> Path:
    """Two bakes, x/ and other/, of different texts."""
    folder = tmp_path_factory.mktemp("datasets")
    bake_switched(folder / "x", bpe_folder, TEXTS)
    bake_switched(folder / "other", bpe_folder, [*TEXTS[::-1], "the bank"])
    return folder


@pytest.fixture
def prefix(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(pristine, tmp_path / "copy")
    return tmp_path / "copy" / "x" / "en_text_document"


def flipped(suffix: str) -> Damage:
    """Return a damage: one bit in the middle of a file, its hash in the manifest as before."""

    def change(data: bytearray) -> None:
        data[len(data) // 2] ^= 1

    return lambda prefix: edit(prefix, suffix, change, rehash=False)


def number(suffix: str, code: str, offset: int, value: int) -> Damage:
    """Return a damage: another number in a file, the manifest made to agree."""

    def damage(prefix: Path) -> None:
        size = Path(f"{prefix}{suffix}").stat().st_size
        edit(prefix, suffix, put(code, offset % size, value), rehash=True)

    return damage


def resized(suffix: str, change: Callable[[bytearray], None]) -> Damage:
    return lambda prefix: edit(prefix, suffix, change, rehash=True)


def content(name: str, value: object) -> Damage:
    """Return a damage: another value in the manifest's content, its own hash made to agree."""

    def damage(prefix: Path) -> None:
        whole = json.loads(manifest_path(prefix).read_text(encoding="utf-8"))
        *parents, last = name.split("/")
        place = whole["content"]
        for parent in parents:
            place = place[parent]
        place[last] = value
        manifest_path(prefix).write_text(Manifest(whole["content"]).to_json(), encoding="utf-8")

    return damage


def from_other(suffix: str) -> Damage:
    return lambda prefix: shutil.copy(f"{prefix.parent.parent / 'other' / prefix.name}{suffix}", f"{prefix}{suffix}")  # type: ignore[return-value]


def swapped(one: str, two: str) -> Damage:
    def damage(prefix: Path) -> None:
        kept = Path(f"{prefix}{one}").read_bytes()
        shutil.copy(f"{prefix}{two}", f"{prefix}{one}")
        Path(f"{prefix}{two}").write_bytes(kept)

    return damage


def edited_manifest(prefix: Path) -> None:
    text = manifest_path(prefix).read_text(encoding="utf-8")
    manifest_path(prefix).write_text(text.replace('"seed": 1', '"seed": 2'), encoding="utf-8")


def removed(suffix: str) -> Damage:
    return lambda prefix: Path(f"{prefix}{suffix}").unlink()


CORRUPTIONS: dict[str, tuple[Damage, str]] = {
    **{f"bit flip {suffix}": (flipped(suffix), "hash") for suffix in (".bin", ".idx", ".switch.bin", ".switch.idx")},
    **{f"missing {suffix}": (removed(suffix), "missing") for suffix in (".bin", ".idx", ".switch.bin", ".switch.idx")},
    "missing manifest": (removed(".json"), "no such manifest"),
    "truncated tokens": (resized(".bin", lambda data: data.__delitem__(slice(-2, None))), "add up to"),
    "truncated index": (resized(".idx", lambda data: data.__delitem__(slice(-8, None))), "its header requires"),
    "truncated header": (resized(".idx", lambda data: data.__delitem__(slice(20, None))), "shorter than the header"),
    "truncated records": (resized(".switch.bin", lambda data: data.__delitem__(slice(-16, None))), "add up to"),
    "longer tokens": (resized(".bin", lambda data: data.extend(b"\0\0")), "add up to"),
    "magic": (number(".idx", "<B", 0, 0), "not the index of a Megatron dataset"),
    "version": (number(".idx", "<Q", 9, 2), "not the index of a Megatron dataset"),
    "unknown type": (number(".idx", "<B", 17, 99), "not the index of a Megatron dataset"),
    "other type": (number(".idx", "<B", 17, 3), "tokens are of type int16"),
    "sequence count": (number(".idx", "<Q", 18, 3), "its header requires"),
    "negative length": (number(".idx", "<i", IDX_SEQUENCES, -1), "negative length"),
    "length": (number(".idx", "<i", IDX_SEQUENCES, 1), "running sum"),
    "first pointer": (number(".idx", "<q", IDX_POINTERS, 2), "running sum"),
    "pointer": (number(".idx", "<q", IDX_POINTERS + 8, 4), "running sum"),
    "falling document ends": (number(".idx", "<q", IDX_DOCUMENT_ENDS + 8, 3), "do not rise"),
    "last document end": (number(".idx", "<q", -8, 3), "do not rise"),
    "moved document end": (
        number(".idx", "<q", IDX_DOCUMENT_ENDS + 16, 2),
        "sequences do not match those of the tokens",
    ),
    "id out of range": (number(".bin", "<H", 0, 2000), "ids from 0 to 2000"),
    "no EOD at the end": (number(".bin", "<H", -2, 7), "do not end with the token 0"),
    "records type": (number(".switch.idx", "<B", 17, 7), "records are float32"),
    "record before its sequence": (number(".switch.bin", "<i", 0, -1), "extend beyond their sequence"),
    "record of no tokens": (number(".switch.bin", "<i", 4, 0), "extend beyond their sequence"),
    "record behind its sequence": (number(".switch.bin", "<i", 4, 1000), "extend beyond their sequence"),
    "overlapping records": (number(".switch.bin", "<i", 4, 3), "overlap or are out of order"),
    "unsorted records": (number(".switch.bin", "<i", 16, 0), "overlap or are out of order"),
    "label out of range": (number(".switch.bin", "<i", 8, 2000), "label outside the vocabulary"),
    "special label": (number(".switch.bin", "<i", 8, 0), "special token as label"),
    "entry out of range": (number(".switch.bin", "<i", 12, 3), "that is not in the lexicon"),
    "tokens of another bake": (from_other(".bin"), "bytes, but the manifest says"),
    "index of another bake": (from_other(".idx"), "bytes, but the manifest says"),
    "manifest of another bake": (from_other(".json"), "bytes, but the manifest says"),
    "swapped data files": (swapped(".bin", ".switch.bin"), "bytes, but the manifest says"),
    "swapped index files": (swapped(".idx", ".switch.idx"), "hash in the manifest"),
    "edited manifest": (edited_manifest, "edited or damaged"),
    "manifest version": (content("format_version", 2), "format version 2"),
    "document count": (content("counts/documents", 6), "documents 5, but the manifest says 6"),
    "token count": (content("counts/tokens", 1), "the manifest says 1"),
    "switched count": (content("counts/switched", 1), "the manifest counts 1 switched words"),
    "switched token count": (content("counts/switched_tokens", 1), "the manifest counts 1 switched tokens"),
    "vocabulary": (content("vocab_size", 5), "the vocabulary has 5"),
    "tokenizer": (content("tokenizer_fingerprint", "0" * 64), "another tokenizer"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_planted_corruption_is_caught(
    name: str, prefix: Path, bpe_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = CORRUPTIONS[name]
    assert len(CORRUPTIONS) >= 25
    damage(prefix)
    assert verify_dataset.main([str(prefix), "--tokenizer-model", str(bpe_folder)]) == 1
    output = capsys.readouterr().out
    assert message in output, output


def test_good_datasets_pass(prefix: Path, bpe_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = prefix.parent.parent / "other" / prefix.name
    assert verify_dataset.main([str(prefix), str(other), "--tokenizer-model", str(bpe_folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {str(prefix): [], str(other): []}
    assert verify_dataset.main([str(prefix), "--tokenizer-model", "absent"]) == 2


def test_documents_are_shown(
    prefix: Path, bpe_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lexicon = str(prefix.parent / "lexicon.tsv")
    arguments = [str(prefix), "--tokenizer-model", str(bpe_folder), "--lexicon", lexicon]
    assert inspect_dataset.main([*arguments, "--documents", "0", "4"]) == 0
    output = capsys.readouterr().out
    assert "[the→die][bank→银行] [is→ist] here<|endoftext|>" in output and "document 4" in output
    assert "\x1b" not in output
    assert inspect_dataset.main([*arguments, "--labels"]) == 0
    table = capsys.readouterr().out
    # "die" has two tokens: inside it nothing is predicted, behind it the original next word's first subword.
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in table.splitlines() if line.startswith("│")]
    assert rows[:2] == [["0", "'di'", "(nothing)"], ["1", "'e'", "' bank'"]]
    assert rows[-2][2] == "'<|endoftext|>'" and rows[-1][2] == "(nothing)"
    assert inspect_dataset.main([*arguments, "--documents", "5"]) == 2
    assert inspect_dataset.main([*arguments, "--random", "9"]) == 2
    assert (
        "no document 5" in (error := capsys.readouterr().err)
        and "--random must be from 0 to" in error
        and "got 9" in error
    )


def test_the_counts_of_a_bake_are_shown_again(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_dataset.main([str(prefix), "--statistics"]) == 0
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in capsys.readouterr().out.splitlines()]
    counts = read_manifest(prefix).content["counts"]
    assert ["tokens", f"{counts['tokens']:,}"] in rows
    assert ["words switched", f"{counts['switched']:,}  ({counts['switched'] / counts['words']:.2%})"] in rows
    assert inspect_dataset.main([str(prefix)]) == 2
    assert "--tokenizer-model is required" in capsys.readouterr().err


def test_pages_escape_the_text(prefix: Path, bpe_folder: Path, tmp_path: Path) -> None:
    arguments = [str(prefix), "--tokenizer-model", str(bpe_folder), "--random", "5", "--html", str(tmp_path / "p.html")]
    assert inspect_dataset.main(arguments) == 0
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "class &lt;b&gt;" in page and "<b>" not in page
    assert "<ins>银行</ins>" in page
    assert inspect_dataset.main(arguments) == 2
    assert inspect_dataset.main([*arguments, "--labels", "--overwrite"]) == 0
    assert "<tr class=switched>" in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_merge_then_verify(prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = prefix.parent.parent / "other" / prefix.name
    arguments = [str(prefix), str(other), "--output", str(tmp_path / "all")]
    assert merge_datasets.main(arguments) == 0
    assert "11 documents" in capsys.readouterr().out
    assert verify_dataset.main([str(tmp_path / "all")]) == 0
    assert merge_datasets.main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
