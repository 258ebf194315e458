"""Formats that other programs write: read, or refused by name."""

import gzip
from pathlib import Path

import pytest

from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import read_lexicon


def pairs(path: Path, source: str, target: str, reverse: bool = False) -> list[tuple[str, str]]:
    lexicon = read_lexicon([path], source, target, reverse=reverse)
    return [(word, translation.word) for word, translation in lexicon.pairs()]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.tmx", '<?xml version="1.0"?>\n<!DOCTYPE tmx>\n<tmx version="1.4">', "TMX, a translation memory"),
        ("en-es.dix", '<?xml version="1.0"?>\n<!-- x -->\n<dictionary>', "a dictionary of Apertium"),
        ("a.xdxf", '<?xml version="1.0"?>\n<xdxf>', "XML"),
        ("a.ifo", "StarDict's dict ifo file\nversion=2.4.2\n", "a dictionary of StarDict"),
        ("a.xlsx", b"PK\x03\x04\x14", "a ZIP archive or spreadsheet"),
        ("a.txt", b"bank\x00Bank\n", "binary"),
    ],
)
def test_a_format_without_a_reader_is_named(tmp_path: Path, name: str, content: str | bytes, problem: str) -> None:
    (path := tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"{name}: {problem}, which is not read; convert it to TSV"):
        read_lexicon([path], "en", "es")


def test_files_of_stardict_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.ifo").write_text("StarDict's dict ifo file\n")
    for name in ("a.dict.dz", "a.dict", "a.idx", "a.idx.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"x") if name.endswith("z") else b"x")
        with pytest.raises(DataError, match=f"{name}: a dictionary of StarDict, which is not read"):
            read_lexicon([tmp_path / name], "en", "de")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_header_may_name_the_languages(tmp_path: Path, encoding: str, separator: str) -> None:
    path = tmp_path / ("a.csv" if separator == "," else "a.tsv")
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    for header, row in (("en{}deu", "bank{}Bank"), ("de{}EN", "Bank{}bank")):
        path.write_bytes(mark + f"{header}\n{row}\n".format(separator, separator).encode(encoding))
        assert pairs(path, "en", "de") == [("bank", "Bank")]
        assert pairs(path, "de", "en", reverse=True) == [("Bank", "bank")]
    path.write_bytes(mark + f"hotel{separator}Hotel\nbank{separator}Bank\n".encode(encoding))
    assert pairs(path, "en", "de") == [("hotel", "Hotel"), ("bank", "Bank")]


def test_damaged_utf_16_is_named(tmp_path: Path) -> None:
    (path := tmp_path / "a.tsv").write_bytes("bank\tBank\n".encode("utf-16")[:-1])
    with pytest.raises(DataError, match=r"a\.tsv: can't be read \(not UTF-16 at byte 20"):
        read_lexicon([path], "en", "de")


def test_dictionaries_in_the_format_of_cedict(tmp_path: Path) -> None:
    kin = """# HanDeDict, CFDICT, CC-Canto
銀行 银行 [[yin2hang2]] /Bank (S, Wirtsch)/Bankhaus (S)/
雞 鸡 [ji1] {gai1} /Huhn/ # adapted from cc-cedict
"""
    (path := tmp_path / "handedict.u8").write_text(kin, encoding="utf-8")
    expected = [("银行", "Bank"), ("银行", "Bankhaus"), ("鸡", "Huhn")]
    assert pairs(path, "zh", "de") == pairs(path, "zho_Hans", "deu_Latn") == expected
    assert pairs(path, "de", "zh") == [(gloss, word) for word, gloss in expected]
    assert pairs(path, "yue", "de")[0] == ("銀行", "Bank")
