"""Continue prompts with a Hugging Face folder, and report whether the model ended each text.

python tools/generate.py --model exported --prompt "Once upon a time" --prompt "Es war einmal"
"""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

from megatron_prealign.command_line import path_argument, tool
from megatron_prealign.errors import DataError


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after an error that the user can fix."""
    options = build_parser().parse_args(argv)
    for prompt, continuation, has_stopped in generate(options):
        print(f"{prompt}\033[1m{continuation}\033[0m" if sys.stdout.isatty() else prompt + continuation)
        print("[end]" if has_stopped else f"[cut after {options.max_new_tokens} tokens]")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", type=path_argument, required=True, help="Hugging Face folder with tokenizer")
    parser.add_argument("--prompt", action="append", required=True, help="text to continue; may be repeated")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest continuation in tokens")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="sampling temperature; 0 = always the most likely token"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws at a temperature above 0")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device of the model")
    return parser


def _as_utf8(text: str) -> str:
    """Return an argument of the command line with `?` in the place of bytes that are not UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def generate(options: argparse.Namespace) -> list[tuple[str, str, bool]]:
    """Return (prompt, continuation, whether the model ended it) for each prompt.

    Raises:
        CheckpointError: not a Hugging Face folder.
        DataError: no usable tokenizer, or nothing to generate.
    """
    problems = []
    if options.max_new_tokens < 1:
        problems.append(f"--max-new-tokens must be at least 1, got {options.max_new_tokens}")
    if not 0 <= options.temperature < math.inf:
        problems.append(f"--temperature must be 0 or a positive number, got {options.temperature}")
    problems += [f"--prompt {text!r} is not UTF-8" for text in options.prompt if text != _as_utf8(text)]
    if problems:
        raise DataError(problems)
    # Imported here: torch takes seconds, which --help should not cost.
    import torch
    from transformers import GenerationConfig

    from megatron_prealign.evaluation.folder import open_folder
    from megatron_prealign.text.frame import document_frame
    from megatron_prealign.text.tokenizer_settings import as_ids

    folder = open_folder(options.model, options.device)
    frame = document_frame(folder.tokenizer)
    torch.manual_seed(options.seed)
    ends = as_ids(folder.model.generation_config.eos_token_id) or frame.end
    how = {"eos_token_id": ends or None, "max_new_tokens": options.max_new_tokens, "do_sample": options.temperature > 0}
    if options.temperature > 0:
        how["temperature"] = options.temperature
    else:
        # The likeliest token, whatever penalties the folder's settings have.
        plain: Any = GenerationConfig
        folder.model.generation_config = plain(pad_token_id=folder.model.generation_config.pad_token_id)
    found = []
    for prompt in options.prompt:
        # As transformers reads a prompt; without text, continue after the end of another document.
        ids = [*frame.start, *folder.tokenizer.encode(prompt)] or frame.context or [0]
        inputs = torch.tensor([ids], device=folder.device)
        output = folder.model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            **how,
        )
        new = output[0, len(ids) :].tolist()
        has_stopped = bool(new) and new[-1] in ends
        # Behind the prompt: alone, some tokenizers leave out the space before the first word.
        text = folder.tokenizer.decode([*ids, *(new[:-1] if has_stopped else new)])
        found.append((prompt, text.removeprefix(folder.tokenizer.decode(ids)), has_stopped))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
