"""The help page shows every field with its meaning and default."""

import contextlib
import dataclasses
import inspect
import io
import itertools
import typing

import pytest

from megatron_prealign.config import Config, load_config


def meanings(section: type) -> dict[str, str]:
    """Read the string below each field of a section from its source."""
    found = {}
    lines = inspect.getsource(section).splitlines()
    for line, following in itertools.pairwise(lines):
        name = line.strip().split(":")[0]
        if name in {field.name for field in dataclasses.fields(section)} and following.strip().startswith('"""'):
            found[name] = following.strip().strip('"')
    return found


@pytest.fixture(scope="module")
def page() -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as exited:
        load_config(["--config", "nowhere.yaml", "--help"])
    assert exited.value.code == 0
    return printed.getvalue()


@pytest.mark.parametrize("section", [field.name for field in dataclasses.fields(Config)])
def test_every_field_has_its_meaning_and_default(page: str, section: str) -> None:
    section_type = typing.get_type_hints(Config)[section]
    flat = " ".join(page.replace("│", " ").split())
    stated = meanings(section_type)
    for field in dataclasses.fields(section_type):
        start = flat.index(f"--{section}.{field.name} ")
        entry = flat[start : flat.find(" --", start + 2)]
        assert stated[field.name] in entry, field.name
        assert "(default: " in entry, field.name


def test_options_and_examples_are_there(page: str) -> None:
    assert "--config FILE" in page
    assert "--dry_run" in page
    assert "torchrun --nproc-per-node 8 pretrain_prealign.py --config run.yaml" in page
    flat = " ".join(page.replace("│", " ").split())
    assert "--data.blend [{prefix: STR, language: STR, weight: FLOAT, tokens: INT, max_epochs: FLOAT}, ...]" in flat
