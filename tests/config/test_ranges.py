"""Numbers of the configuration and their ranges; tests/config/test_validation.py tries the ranges themselves."""

import dataclasses
import typing

from megatron_prealign.config import Config
from megatron_prealign.config.ranges import RANGES


def test_every_number_has_a_range() -> None:
    numbers = {
        f"{section}.{field.name}"
        for section, section_type in typing.get_type_hints(Config).items()
        for field in dataclasses.fields(section_type)
        if field.type in (int, float, int | None, float | None)
    }
    assert numbers == set(RANGES)
