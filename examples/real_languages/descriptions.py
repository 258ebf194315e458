"""Real text in several languages: descriptions of Debian's packages, in English and translated by volunteers.

    python examples/real_languages/descriptions.py --languages de it --output runs/descriptions

apt-get downloads the lists of packages and their translations (about 40 MB, into a folder of its own; nothing is
installed). The licence of a description is that of its package; nothing of it is in the repository.

Everything is dealt by *source package*, by a hash of its name, so that no text is read in two languages:

* LANGUAGE.jsonl: text to train on. A source package with a translation is English or that language; a document holds
  the paragraphs of one source package that did not occur before.
* LANGUAGE_valid.jsonl: the same for source packages that are held out, in every language.
* parallel.jsonl: first paragraphs of held-out packages, an object of texts by language on each line.
* task/train.en.jsonl, task/test.LANGUAGE.jsonl: tell the archive section of a package from its description, learnt in
  English. Words of a translation that occur in its English original, such as names of products, are taken out: they
  would give the answer away without any German.
* summary.json: documents, characters and labels of each file.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.errors import DataError
from megatron_prealign.files import atomic_folder, output_problems
from megatron_prealign.text.languages import uses_spaces

RELEASE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
LANGUAGES = {name: name for name in ("da", "de", "es", "fr", "it", "ja", "ko", "nl", "pl", "ru", "sk", "sv", "uk")}
LANGUAGES |= {"en": "en", "pt": "pt_BR", "zh": "zh_CN"}
"""What Debian calls them."""
TOPICS = [
    "admin",
    "comm",
    "database",
    "devel",
    "editors",
    "education",
    "electronics",
    "games",
    "gnome",
    "graphics",
    "hamradio",
    "httpd",
    "interpreters",
    "kde",
    "mail",
    "math",
    "net",
    "news",
    "science",
    "shells",
    "sound",
    "text",
    "utils",
    "vcs",
    "video",
    "web",
    "x11",
]
"""Sections that name a topic; the others name a programming language or a kind of file."""
NUM_LABELS = 12
MIN_CHARACTERS, MIN_CHARACTERS_UNSPACED = 40, 12
"""Of a paragraph, also in scripts without spaces; shorter ones are headings and items of lists."""
VALID, TASK_TRAIN, TASK_TEST = 0.03, 0.10, 0.10
"""Shares of the source packages."""
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Package:
    """What is known of a description besides its texts."""

    source: str
    """The source package, by which everything is dealt."""
    section: str
    """Of the archive, such as games."""


def share_of(name: str, purpose: str) -> float:
    """Return a number in [0, 1) that depends on a name and what it is drawn for, and on nothing else."""
    digest = hashlib.sha256(f"{purpose} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def stanzas(path: Path) -> Iterator[dict[str, str]]:
    """Yield the fields of each stanza of a list of apt; lines that continue a field are kept with their line ends."""
    fields: dict[str, str] = {}
    name = ""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if line == "\n":
                yield fields
                fields, name = {}, ""
            elif line.startswith(" "):
                fields[name] += "\n" + line[1:].rstrip("\n")
            else:
                name, _, value = line.rstrip("\n").partition(":")
                fields[name] = value.strip()
    if fields:
        yield fields


def read_packages(path: Path) -> dict[str, Package]:
    """Return packages by the hash of their English description, which several versions may share."""
    return {
        fields["Description-md5"]: Package(fields.get("Source", fields["Package"]).split()[0], fields["Section"])
        for fields in stanzas(path)
        if "Description-md5" in fields
    }


def read_descriptions(path: Path, language: str, packages: Mapping[str, Package]) -> dict[str, list[str]]:
    """Return the paragraphs of each description by the hash of the English one."""
    shortest = MIN_CHARACTERS if uses_spaces(language) else MIN_CHARACTERS_UNSPACED
    return {
        fields["Description-md5"]: paragraphs(fields[f"Description-{LANGUAGES[language]}"], shortest)
        for fields in stanzas(path)
        if fields["Description-md5"] in packages
    }


def paragraphs(description: str, shortest: int = MIN_CHARACTERS) -> list[str]:
    """Return the running text of a description without its one-line summary, a line a paragraph.

    Lines that are indented further are lists and code, a line that holds a dot alone ends a paragraph.
    """
    found: list[list[str]] = [[]]
    for line in description.split("\n")[1:]:
        if line.strip() == "." or line.startswith(" "):
            found.append([])
        if line.strip() != "." and not line.startswith(" "):
            found[-1].append(line.strip())
    joined = (" ".join(lines) for lines in found)
    return [text for text in joined if len(text) >= shortest]


def part_of(source: str) -> str:
    """Deal a source package to `valid`, `task_train`, `task_test` or `train`."""
    drawn = share_of(source, "part")
    for part, share in (("valid", VALID), ("task_train", TASK_TRAIN), ("task_test", TASK_TEST)):
        if drawn < share:
            return part
        drawn -= share
    return "train"


def language_of(source: str, translated: Sequence[str]) -> str:
    """Deal a source package to English or one of the languages into which it is translated, all alike."""
    choices = ("en", *sorted(translated))
    return choices[int(share_of(source, "language") * len(choices))]


class Collection:
    """Descriptions in several languages, by source package."""

    def __init__(self, packages: Mapping[str, Package], texts: Mapping[str, Mapping[str, list[str]]]) -> None:
        """Order `texts` (language → hash → paragraphs) by source package."""
        self._packages = packages
        self._texts = texts
        self.sources: dict[str, list[str]] = defaultdict(list)
        for key, package in packages.items():
            self.sources[package.source].append(key)
        self.by_part: dict[str, list[str]] = defaultdict(list)
        for source in sorted(self.sources):
            self.by_part[part_of(source)].append(source)

    def documents(self, language: str, sources: Iterable[str], seen: set[str]) -> Iterator[str]:
        """Yield for each source package its paragraphs that are not in `seen`, and add them to it."""
        english = self._texts["en"]
        for source in sources:
            fresh = []
            for key in self.sources[source]:
                # What nobody translated yet is left in English.
                foreign = set(english.get(key, ())) if language != "en" else set()
                fresh += [text for text in self._texts[language].get(key, ()) if text not in seen | foreign]
                seen.update(fresh)
            if fresh:
                yield "\n".join(dict.fromkeys(fresh))

    def training_sources(self, language: str) -> Iterator[str]:
        """Yield the source packages that a language is trained on."""
        others = [name for name in self._texts if name != "en"]
        for source in self.by_part["train"]:
            keys = self.sources[source]
            translated = [name for name in others if any(key in self._texts[name] for key in keys)]
            if language_of(source, translated) == language:
                yield source

    def parallel(self) -> Iterator[dict[str, str]]:
        """Yield the first paragraphs of held-out source packages by language, English and at least another."""
        for source in self.by_part["valid"]:
            for key in self.sources[source][:1]:
                row = {name: found[0] for name, texts in self._texts.items() if (found := texts.get(key))}
                row = {name: text for name, text in row.items() if name == "en" or text != row.get("en")}
                if len(row) > 1 and "en" in row:
                    yield row

    def examples(self, language: str, sources: Iterable[str]) -> dict[str, list[str]]:
        """Return a masked description of each source package, by topic."""
        found: dict[str, list[str]] = defaultdict(list)
        for source in sources:
            for key in self.sources[source]:
                section = self._packages[key].section
                texts = self._texts[language].get(key)
                if section in TOPICS and texts and texts != self._texts["en"].get(key):
                    found[section].append(masked("\n".join(texts), "\n".join(self._texts["en"].get(key, ()))))
                    break
                if section in TOPICS and texts and language == "en":
                    found[section].append("\n".join(texts))
                    break
        return found


def masked(text: str, original: str) -> str:
    """Return a translation without the words that its original has too, whatever their case."""
    shared = {word.casefold() for word in WORD.findall(original)}
    kept = WORD.sub(lambda match: "" if match[0].casefold() in shared else match[0], text)
    return "\n".join(" ".join(line.split()) for line in kept.split("\n"))


def balanced(examples: Mapping[str, list[str]], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return (text, label) of as many examples of each label, chosen and ordered by a hash of their text."""
    count = min(len(examples.get(label, ())) for label in labels)
    rows = [(text, label) for label in labels for text in sorted(examples[label], key=_drawn)[:count]]
    return sorted(rows, key=lambda row: _drawn(row[0]))


def _drawn(text: str) -> float:
    return share_of(text, "example")


def download(languages: Sequence[str], folder: Path) -> None:
    """Download the lists of packages and translations into a folder with apt-get; nothing is installed.

    Raises:
        DataError: there is no apt-get, or it could not bring them.
    """
    for name in ("lists/partial", "cache", "none"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {RELEASE} main\n")
    settings = {
        # A file read first: what images for containers configure, such as no translations at all, is left out.
        "Dir::Etc::Parts": folder / "none",
        "Dir::Etc::sourceparts": folder / "none",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
    }
    lines = [f'{name} "{value}";' for name, value in settings.items()]
    named = " ".join(f'"{LANGUAGES[name]}";' for name in ("en", *languages))
    lines.append(f"Acquire::Languages {{ {named} }};")
    (folder / "apt.conf").write_text("\n".join(lines) + "\n")
    hint = "elsewhere download them with Debian's apt-get and name their folder with --lists"
    try:
        result = subprocess.run(
            ["apt-get", "--quiet", "update"],
            env={**os.environ, "APT_CONFIG": str(folder / "apt.conf")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError:
        raise DataError(f"apt-get was not found, which brings the lists of Debian; {hint}") from None
    if result.returncode:
        raise DataError(f"apt-get could not bring the lists ({result.stdout.strip().splitlines()[-1]}); {hint}")


def find_list(folder: Path, ending: str) -> Path:
    """Return the list of apt whose name ends so.

    Raises:
        DataError: there is none.
    """
    # apt writes the underscore of zh_CN as %5f, since its own separate the parts of a name.
    named = [(path.name.replace("%5f", "_"), path) for path in folder.glob(f"*{RELEASE}_main_*")]
    found = sorted(path for name, path in named if name.endswith(ending))
    if not found:
        raise DataError(f"{folder}: no list *{RELEASE}_main_*{ending}; download it, or leave the language out")
    return found[0]


def write(collection: Collection, languages: Sequence[str], output: Path) -> None:
    """Write all files of the collection into a folder that exists."""
    summary: dict[str, object] = {}

    def write_rows(name: str, rows: Iterable[Mapping[str, str]]) -> None:
        kept = list(rows)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        path = output / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
        summary[name] = {"rows": len(kept), "characters": sum(len(text) for row in kept for text in row.values())}
        print(f"{name}.jsonl: {summary[name]}")

    test = {language: collection.examples(language, collection.by_part["task_test"]) for language in languages}
    fewest = Counter({topic: min(len(found[topic]) for found in test.values()) for topic in TOPICS})
    labels = sorted(topic for topic, count in fewest.most_common(NUM_LABELS) if count)
    for language in languages:
        seen: set[str] = set()
        held_out = list(collection.documents(language, collection.by_part["valid"], seen))
        write_rows(f"{language}_valid", ({"text": text} for text in held_out))
        training = collection.documents(language, collection.training_sources(language), seen)
        write_rows(language, ({"text": text} for text in training))
        rows = balanced(test[language], labels)
        write_rows(f"task/test.{language}", ({"text": text, "label": label} for text, label in rows))
    # Labels are new even where the model has read the text.
    sources = [*collection.by_part["task_train"], *collection.training_sources("en")]
    learnt = balanced(collection.examples("en", sources), labels)
    write_rows("task/train.en", ({"text": text, "label": label} for text, label in learnt))
    write_rows("parallel", collection.parallel())
    (output / "summary.json").write_text(json.dumps({"labels": labels, "files": summary}, indent=1) + "\n")


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--output", type=path_argument, required=True, help="folder to write")
    parser.add_argument(
        "--languages", nargs="+", choices=sorted(LANGUAGES.keys() - {"en"}), default=["de"], help="beside English"
    )
    parser.add_argument("--lists", type=path_argument, help="folder of apt's lists, downloaded already")
    arguments = parser.parse_args(argv)
    languages = ["en", *dict.fromkeys(arguments.languages)]
    if problems := output_problems(arguments.output, overwrite=False):
        raise DataError(problems)
    with tempfile.TemporaryDirectory() as scratch:
        lists = arguments.lists
        if lists is None:
            print("downloading lists of packages")
            download(languages[1:], Path(scratch))
            lists = Path(scratch) / "lists"
        packages = read_packages(find_list(lists, "_Packages"))
        found = {name: find_list(lists, f"Translation-{LANGUAGES[name]}") for name in languages}
        texts = {name: read_descriptions(path, name, packages) for name, path in found.items()}
        with atomic_folder(arguments.output) as output:
            write(Collection(packages, texts), languages, output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
