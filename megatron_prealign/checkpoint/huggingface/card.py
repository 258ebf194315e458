"""Write the model card: content of the folder, training configuration, datasets and measured results."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from megatron_prealign.config import Config, DataConfig, dump_config, find_prefixes
from megatron_prealign.dataset.manifest import read_manifest
from megatron_prealign.errors import CheckpointError, DataError

_SECTIONS = ("model", "data", "optimizer", "schedule", "alignment", "training")
# Paths and layout of a run do not change what was trained.
_PLACES = {"data": ("tokenizer_path", "cache_path"), "training": ("run_path", "device", "recompute")}
_MEASURED = ("perplexity", "retrieval")


def read_results(path: Path) -> dict[str, Any]:
    """Read the numbers that tools/evaluate.py wrote.

    Raises:
        CheckpointError: they can't be read, or there are none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {name: content[name] for name in _MEASURED if content.get(name)}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: not the output of tools/evaluate.py ({error}); name its results.json") from None
    if not found:
        raise CheckpointError(f"{path}: holds neither {' nor '.join(_MEASURED)}; name the output of tools/evaluate.py")
    return found


def model_card(config: Config, dtype: str, results: Mapping[str, Any] | None) -> str:
    """Return the text of README.md; `dtype` is of the written weights, and the datasets need not exist any more."""
    model, languages = config.model, sorted({entry.language for entry in config.data.blend})
    numbers = "Nothing was measured on this folder when it was written."
    if results:
        numbers = f"By tools/evaluate.py:\n\n```json\n{json.dumps(results, indent=2, ensure_ascii=False)}\n```"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---

# A language model pretrained with megatron-prealign

{model.traits.title}, {model.num_layers} layers, hidden size {model.hidden_size}, vocabulary {model.vocab_size}, \
trained on sequences of {config.data.seq_length} tokens; weights in {dtype}.
Languages: {", ".join(languages) or "not recorded"}. Last stage: {config.training.stage}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
model = AutoModelForCausalLM.from_pretrained("PATH_OF_THIS_FOLDER")
```

## Measured results

{numbers}

## Training data

{_data_table(config.data)}

## Training configuration

```yaml
{_training_config(config).rstrip()}
```
"""


def _data_table(data: DataConfig) -> str:
    """Return a table of the datasets, with the hash and counts of their manifests if those still exist."""
    if not data.blend:
        return "Not recorded."
    lines = ["| dataset | language | weight | tokens | switched words | content hash |", "|---|---|---|---|---|---|"]
    for entry in data.blend:
        weight = f"{entry.weight:g}" if entry.tokens is None else f"{entry.tokens:,} tokens"
        for prefix in find_prefixes(entry.prefix):
            tokens = switched = digest = "no manifest"
            try:
                manifest = read_manifest(prefix)
            except DataError:
                pass
            else:
                counts = manifest.content["counts"]
                tokens, switched = (f"{counts.get(name, 0):,}" for name in ("tokens", "switched"))
                digest = f"`{manifest.content_hash}`"
            name = Path(prefix).name
            lines.append(f"| {name} | {entry.language} | {weight} | {tokens} | {switched} | {digest} |")
    return "\n".join(lines)


def _training_config(config: Config) -> str:
    whole = yaml.safe_load(dump_config(config))
    shown = {section: dict(whole[section]) for section in _SECTIONS}
    for section, names in _PLACES.items():
        for name in names:
            del shown[section][name]
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
