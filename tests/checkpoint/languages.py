"""Real text of ten languages in six scripts and more, from a package: names of countries, a few a line."""

import gettext
from pathlib import Path

import pycountry

LANGUAGES = ("ar", "de", "el", "es", "fr", "hi", "ja", "ru", "th", "zh_CN")


def lines_of_ten_languages() -> list[str]:
    """Return 100 lines of each language."""
    found = []
    for language in LANGUAGES:
        with (Path(pycountry.LOCALES_DIR) / language / "LC_MESSAGES" / "iso3166-1.mo").open("rb") as file:
            translate = gettext.GNUTranslations(file).gettext
        names = [translate(country.name) for country in list(pycountry.countries)[:102]]
        found += [
            f"{first}, {second} ({third})" for first, second, third in zip(names, names[1:], names[2:], strict=False)
        ]
    return found
