"""Fetch the dictionaries between English and other languages that Debian packages; nothing is installed.

    python examples/real_languages/dictionaries.py --languages de it --output runs/dictionaries

FreeDict (GPL and AGPL) out of packages such as `dict-freedict-eng-deu`, and the German-English dictionary of TU
Chemnitz (GPL) out of `trans-de-en`. None of them is in the repository.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.errors import DataError
from megatron_prealign.files import atomic_folder, output_problems

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples.downloads import download_debian, unpack_debian


@dataclass(frozen=True)
class Dictionary:
    """A dictionary in a Debian package."""

    package: str
    files: tuple[str, ...]
    """Below /usr/share; tools/build_lexicon.py reads the first."""
    reverse: bool
    """It leads into English."""


def _freedict(pair: str, *, reverse: bool) -> Dictionary:
    files = (f"dictd/freedict-{pair}.index", f"dictd/freedict-{pair}.dict.dz")
    return Dictionary(f"dict-freedict-{pair}", files, reverse)


DICTIONARIES: dict[str, tuple[Dictionary, ...]] = {
    "da": (_freedict("eng-dan", reverse=False),),
    "de": (_freedict("eng-deu", reverse=False), Dictionary("trans-de-en", ("trans/de-en",), True)),
    "fr": (_freedict("eng-fra", reverse=False),),
    "it": (_freedict("eng-ita", reverse=False), _freedict("ita-eng", reverse=True)),
}
"""Danish keeps its small dictionary alone: with 12 % of the running words it is a control."""


def inputs(languages: Sequence[str], folder: Path) -> list[str]:
    """Return the options that tell tools/build_lexicon.py about the dictionaries in a folder."""
    options = []
    for language in languages:
        for dictionary in DICTIONARIES[language]:
            path = folder / Path(dictionary.files[0]).name
            options += ["--reverse-input" if dictionary.reverse else "--input", f"{language}={path}"]
    return options


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--output", type=path_argument, required=True, help="folder to write")
    parser.add_argument("--languages", nargs="+", choices=sorted(DICTIONARIES), default=["de"], help="beside English")
    parser.add_argument("--packages", type=path_argument, help="folder of packages, downloaded already")
    arguments = parser.parse_args(argv)
    if problems := output_problems(arguments.output, overwrite=False):
        raise DataError(problems)
    wanted = [one for language in dict.fromkeys(arguments.languages) for one in DICTIONARIES[language]]
    with tempfile.TemporaryDirectory() as scratch, atomic_folder(arguments.output) as output:
        packages = arguments.packages
        if packages is None:
            packages = Path(scratch)
            download_debian([dictionary.package for dictionary in wanted], packages, "--packages")
        for dictionary in wanted:
            unpacked = unpack_debian(packages, dictionary.package, Path(scratch))
            for name in dictionary.files:
                shutil.copyfile(unpacked / "usr/share" / name, output / Path(name).name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
