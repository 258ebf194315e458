"""The names of a model's taps, and which of them enter the alignment loss."""

import difflib
from collections.abc import Iterable

from megatron_prealign.errors import ConfigError

_LARGEST_WEIGHT = 1e6
"""With larger ones, the smaller weights would vanish in the sum."""
EMBEDDING, OUTPUT_EMBEDDING = "embedding", "output_embedding"


def tap_names(num_layers: int, *, tied: bool) -> list[str]:
    """Name a model's taps in order: L + 2, one less with tied embeddings, where the last would repeat the first."""
    layers = [f"layer_{number}" for number in range(1, num_layers + 1)]
    return [EMBEDDING, *layers, *([] if tied else [OUTPUT_EMBEDDING])]


def tap_weights(choice: str, num_layers: int, *, tied: bool) -> list[float]:
    """Return the weight of each tap, summing to 1; 0 = not in the loss.

    Args:
        choice: all, embeddings, middle (the middle third of the layers), or names with or without a weight,
            like "embedding,layer_3:0.5".
        num_layers: layers of the model.
        tied: whether input and output embeddings are one matrix.

    Raises:
        ConfigError: Lists every tap that does not exist, is named twice, or has no weight above 0.
    """
    names = tap_names(num_layers, tied=tied)
    third = num_layers // 3
    groups = {
        "all": names,
        "embeddings": [name for name in (EMBEDDING, OUTPUT_EMBEDDING) if name in names],
        "middle": names[1 + third : 1 + num_layers - third],
    }
    group = groups.get(choice.strip())
    chosen = _read_weights(choice, names, groups) if group is None else dict.fromkeys(group, 1.0)
    total = sum(chosen.values())
    return [chosen.get(name, 0.0) / total for name in names]


def _read_weights(choice: str, names: list[str], groups: Iterable[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    problems = []
    for part in choice.split(","):
        name, _, number = (piece.strip() for piece in part.partition(":"))
        if name not in names:
            if name in groups:
                hint = f"give {name} alone, without a weight"
            elif close := difflib.get_close_matches(name, [*names, *groups], n=1):
                hint = f"did you mean {close[0]}?"
            else:
                hint = f"the taps are {names[0]}, {names[1]} .. {names[-1]}"
            problems.append(f"--alignment.taps: this model has no tap {name!r}; {hint}")
        elif name in weights:
            problems.append(f"--alignment.taps names {name} twice; give it one weight")
        else:
            weights[name] = _read_weight(number)
            if not 1 / _LARGEST_WEIGHT <= weights[name] <= _LARGEST_WEIGHT:
                bounds = f"a number from {1 / _LARGEST_WEIGHT:g} to {_LARGEST_WEIGHT:g}"
                problems.append(f"--alignment.taps: the weight of {name} must be {bounds}, got {number!r}")
    if problems:
        raise ConfigError(problems)
    return weights


def _read_weight(number: str) -> float:
    try:
        return float(number or 1)
    except ValueError:
        return float("nan")
