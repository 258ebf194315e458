"""What one release of transformers makes of a folder: settings, logits, tokens and a generation, as JSON.

Runs in an environment that has transformers and torch, and nothing of this project.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, __version__

PROMPT = "The if statement is used for conditional execution"


def read(path: str, texts: list[str]) -> dict[str, object]:
    """Load a folder as a user would and return what came of it; no more than the release where it is too old."""
    if json.loads((Path(path) / "config.json").read_text())["model_type"] not in CONFIG_MAPPING:
        return {"version": __version__}
    loaded = AutoModelForCausalLM.from_pretrained(path, torch_dtype=torch.float32, output_loading_info=True)
    model, info = loaded
    tokenizer = AutoTokenizer.from_pretrained(path)
    ids = torch.randint(model.config.vocab_size, (2, 48), generator=torch.Generator().manual_seed(0))
    prompt = tokenizer(PROMPT, return_tensors="pt")
    with torch.inference_mode():
        logits = model.eval()(ids).logits
    generated = model.generate(**prompt, do_sample=False, max_new_tokens=12)
    return {
        "version": __version__,
        "loading": {kind: sorted(map(str, names)) for kind, names in info.items() if names},
        "eos": [model.config.eos_token_id, model.generation_config.eos_token_id],
        "tied": model.config.tie_word_embeddings,
        "logits": logits.flatten().tolist(),
        "ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
        "generated": generated[0, prompt["input_ids"].shape[1] :].tolist(),
    }


if __name__ == "__main__":
    request = json.load(sys.stdin)
    json.dump([read(path, request["texts"]) for path in request["folders"]], sys.stdout)
