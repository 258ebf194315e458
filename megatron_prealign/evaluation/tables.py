"""Results on a terminal, for evaluations that draw no tables of their own."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table


def plain_table(name: str, results: Mapping[str, Any]) -> Table:
    """Return a table with a row for every number, named by its keys."""
    table = Table("", "value", title=name)
    for keys, value in _leaves(results):
        table.add_row(" ".join(keys), value)
    return table


def _leaves(results: Mapping[str, Any], keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, value in results.items():
        path = (*keys, str(key))
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        else:
            values = value if isinstance(value, list) else [value]
            yield path, " ".join(f"{one:.4g}" if isinstance(one, float) else str(one) for one in values)
