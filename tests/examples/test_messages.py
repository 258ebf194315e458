"""A lexicon out of the messages of programs: their words, the alignment, and which pairs are kept."""

import shutil
from collections import Counter
from pathlib import Path

import polib
import pytest

from examples.real_languages import messages
from examples.real_languages.data import DescriptionData, LexiconVariant
from megatron_prealign.lexicon import read_lexicon
from tests.examples.test_sources import pack

PAIRS = [
    ("Open the file", "Die Datei öffnen"),
    ("the image", "Das Bild"),
    ("Save the file", "Die Datei speichern"),
    ("file name", "Name der Datei"),
    ("Open an image", "Ein Bild öffnen"),
    ("Save an image", "Ein Bild speichern"),
    ("image name", "Name des Bildes"),
    ("the name", "der Name"),
]


def write_messages(path: Path, pairs: list[tuple[str, str]]) -> None:
    """Write a compiled catalogue, with a message in a context and one with a plural."""
    # A date that is none, as real catalogues have them.
    catalog = polib.MOFile()
    catalog.metadata = {"Content-Type": "text/plain; charset=UTF-8", "PO-Revision-Date": "2004-04-20 23:24+0200+01:00"}
    catalog.extend(polib.MOEntry(msgid=one, msgstr=other) for one, other in pairs)
    catalog.append(polib.MOEntry(msgid="Copy", msgstr="Kopie", msgctxt="noun"))
    plural = {0: "%d Datei", 1: "%d Dateien"}
    catalog.append(polib.MOEntry(msgid="%d file", msgid_plural="%d files", msgstr_plural=plural))
    catalog.append(polib.MOEntry(msgid="Untranslated", msgstr="Untranslated"))
    path.parent.mkdir(parents=True)
    catalog.save(str(path))


def test_words_are_without_placeholders_keys_and_halves_of_words() -> None:
    text = "_Open %s or Sa&ve; $name don't %1$d <b>l'immagine</b> utf8 --option ~Straße https://a.b/c"
    assert messages.words_of(text) == ["Open", "or", "Save", "Straße"]


def test_messages_are_read_whatever_their_context_and_number(tmp_path: Path) -> None:
    write_messages(tmp_path / "usr/share/locale/de/LC_MESSAGES/a.mo", PAIRS[:1])
    write_messages(tmp_path / "usr/share/locale/it/LC_MESSAGES/a.mo", PAIRS)
    expected = [("%d file", "%d Datei"), ("Copy", "Kopie"), PAIRS[0]]
    assert messages.read_messages(tmp_path, "de") == sorted(expected)


def test_words_are_aligned_in_both_directions_and_cased_as_inside_a_text() -> None:
    found = messages.links(PAIRS * 3)
    assert {word: found[word].most_common(1)[0][0] for word in ("file", "image", "save", "name")} == {
        "file": "Datei",
        "image": "Bild",
        "save": "speichern",
        "name": "Name",
    }
    assert found["name"].keys() == {"Name"}


def test_rare_and_unlikely_pairs_are_dropped() -> None:
    kept = messages.translations({"file": Counter(Datei=95, Ablage=5, Akte=1), "odd": Counter(selten=1)}, "de")
    assert [(word, t.word, t.weight) for word, t in kept] == [("file", "Datei", 0.9406), ("file", "Ablage", 0.0495)]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb makes and unpacks Debian packages")
def test_packages_become_a_lexicon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages, output = tmp_path / "packages", tmp_path / "messages.tsv"
    packages.mkdir()
    for number, name in enumerate(messages.packages_of(["de"])):
        root = tmp_path / "root"
        write_messages(
            root / "usr/share/locale/de/LC_MESSAGES/a.mo", [(f"{a} {number}", f"{b} {number}") for a, b in PAIRS]
        )
        pack(root, name, packages)
    command = ["--languages", "de", "--packages", str(packages), "--output", str(output)]
    assert messages.main(command) == 0
    entries = {entry.word: entry.translations[0].word for entry in read_lexicon([output], "en").entries}
    assert (entries["file"], entries["image"]) == ("Datei", "Bild")
    assert messages.main(command) != 0
    assert "messages.tsv: exists" in capsys.readouterr().err
    output.unlink()
    assert messages.main(["--languages", "it", *command[2:]]) != 0
    assert "libreoffice-l10n-it_*.deb" in capsys.readouterr().err
    assert not output.exists()


def test_the_recipe_reads_messages_instead_of_dictionaries(tmp_path: Path) -> None:
    data = DescriptionData(folder=tmp_path, languages=("de",), num_words=9, max_translations=2, vocab_size=99)
    step = data.lexicon_step(LexiconVariant(source="messages"))
    assert [before.name for before in step.depends_on] == ["messages", "texts"]
    assert step.outputs[0].name == "lexicon_dictionary_messages"
