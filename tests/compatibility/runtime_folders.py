"""Exported folders with weights drawn at random, and what transformers generates from them."""

import json
import pydoc_data.topics
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_prealign.config import DataConfig, ModelConfig, ParallelConfig
from megatron_prealign.platform import (
    initialize_distributed,
    initialize_model_parallel,
    select_platform,
    shut_down_distributed,
)
from tests.checkpoint.languages import lines_of_ten_languages
from tests.checkpoint.models import LLAMA, build, export_model, make_config
from tools.train_tokenizer import main as train_tokenizer

VOCAB_SIZE = 1500
EOS_ID = 0
NUM_NEW_TOKENS = 24
# Runtimes add in other orders, which moves logits by about 1e-5: below this lead the likeliest token is not compared.
SMALLEST_LEAD = 1e-3
PROMPTS = (
    "The if statement is used for conditional execution",
    "It's 2024: 1234567 people don't pay 3.14 %!",
    "  two  spaces,\n\n\tand a tab \n",
    "def f(x_y):\n    return {'a': x_y[0] + 1}  # why?\n",
    "Die Straße ist l\u00e4nger, als ihr’s glaubt",
    "vie\u0323\u0302t nam, cafe\u0301",
    "Он опоздал на поезд; «почему?»",
    "मेरी माँ घर पर है। दो किताबें",
    "مُحَمَّد ١٢٣٤ كتاب",
    "ภาษาไทยที่นี่ น้ำ",
    "那个女孩很饿。她吃了2碗面。",
    "猫はいる。한국어 문장",
    "👩‍👩‍👧 emoji 🇩🇪",
)

# Heads of 16: onnxruntime-genai has no kernel for smaller ones.
SMALL_LLAMA = replace(
    LLAMA, hidden_size=64, ffn_hidden_size=96, max_position_embeddings=256, vocab_size=VOCAB_SIZE, init_method_std=0.25
)
MODELS: dict[str, ModelConfig] = {
    "llama": replace(SMALL_LLAMA, untie_embeddings_and_output_weights=True),
    "llama-begun": SMALL_LLAMA,
    "qwen3": replace(SMALL_LLAMA, architecture="qwen3", kv_channels=32),
}
"""By the name of the folder. Texts of a folder whose name ends in -begun begin with the bos token."""


@dataclass(frozen=True)
class Exported:
    """A folder, and what transformers makes of each prompt in fp32."""

    path: Path
    ids: list[list[int]]
    continuations: list[list[int]]

    @property
    def bos_id(self) -> int | None:
        """The token that begins texts, if one does."""
        return EOS_ID if self.path.name.endswith("-begun") else None


def make_tokenizer(scratch: Path) -> Path:
    """Train a tokenizer with the default rule for splitting text, on code and ten languages."""
    corpora = {"en": sorted(pydoc_data.topics.topics.values()), "other": lines_of_ten_languages()}
    for language, texts in corpora.items():
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
        (scratch / f"{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    inputs = [option for language in corpora for option in ("--input", f"{language}={scratch / language}.jsonl")]
    output = scratch / "tokenizer"
    assert train_tokenizer([*inputs, "--vocab-size", str(VOCAB_SIZE), "--output", str(output)]) == 0
    return output


def make_exported(name: str, tokenizer_path: Path, scratch: Path) -> Exported:
    """Export a model of random weights, and continue the prompts with transformers."""
    data = DataConfig(seq_length=48, bos="always" if name.endswith("-begun") else "auto")
    config = replace(make_config(MODELS[name]), data=data)
    platform = select_platform("cpu")
    initialize_distributed(platform)
    initialize_model_parallel(ParallelConfig(), seed=1)
    try:
        export_model(build(config, platform.device), config, tokenizer_path, scratch / name)
    finally:
        shut_down_distributed()
    tokenizer = AutoTokenizer.from_pretrained(scratch / name)
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    continuations = continue_greedily(scratch / name, ids)
    # Not one token over and over, which a runtime with misplaced weights might find too.
    assert len({token for found in continuations for token in found}) > 100
    return Exported(scratch / name, ids, continuations)


def continue_greedily(path: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Return the likeliest tokens after each prompt, up to the first that does not lead clearly or ends the text."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    settings = {"do_sample": False, "max_new_tokens": NUM_NEW_TOKENS}
    settings |= {"output_scores": True, "return_dict_in_generate": True}
    continuations = []
    for ids in prompts:
        generated = model.generate(torch.tensor([ids]), **settings)
        leads = [float(-torch.diff(scores[0].topk(2).values)) for scores in generated.scores]
        found = generated.sequences[0, len(ids) :].tolist()
        clear = [lead > SMALLEST_LEAD and token != EOS_ID for lead, token in zip(leads, found, strict=True)]
        continuations.append(found[: [*clear, False].index(False)])
    assert sum(map(len, continuations)) > 0.8 * NUM_NEW_TOKENS * len(prompts)
    return continuations
