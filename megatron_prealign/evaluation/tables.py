"""Results on a terminal: what several evaluations draw, and what those get that draw nothing of their own."""

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


def best_taps_table(
    title: str, pairs: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str], count: str
) -> Table:
    """Return a table with a row a pair of languages, each score at the tap where it is highest.

    Args:
        title: of the table.
        pairs: scores by pair, lists by tap.
        columns: headings by score.
        count: which number of a pair is shown first.
    """
    table = Table("pair", "number", *columns.values(), title=f"{title}: each score at its best tap")
    for pair, row in pairs.items():
        best = [max((value for value in row[name] if value is not None), default=None) for name in columns]
        table.add_row(pair, f"{row[count]:,}", *("-" if value is None else f"{value:.3f}" for value in best))
    return table
