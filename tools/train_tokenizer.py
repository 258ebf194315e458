"""Train a tokenizer over several languages.

    python tools/train_tokenizer.py --input en=english.jsonl --input de=german.jsonl --vocab-size 32000 --output tok/

Byte-level BPE writes a folder that transformers loads, with the splitting rule of Qwen3.5; SentencePiece writes a
`.model` file.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from rich.console import Console

from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.errors import ConfigError, Problems
from megatron_prealign.files import atomic_file, atomic_folder, output_problems
from megatron_prealign.text.documents import read_documents


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="LANG=PATH",
        help="corpus of a language, one document per line: .jsonl or plain text, each optionally .gz or .zst; a folder "
        "or glob means all files in it; repeatable",
    )
    parser.add_argument("--json-key", default="text", help="key of the text in .jsonl files")
    parser.add_argument("--vocab-size", type=int, required=True, help="final number of ids, special tokens included")
    parser.add_argument("--model-type", choices=("bpe", "sentencepiece"), default="bpe", help="kind of tokenizer")
    parser.add_argument(
        "--clonable",
        action="store_true",
        help="bpe: split text by a rule without English contractions, which examples/paper/make_english_clone.py needs "
        "and other libraries do not know",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.3,
        help="exponent in [0, 1]: the share of language i is ∝ bytes_i ** temperature; 1 = by size, 0 = equal shares",
    )
    parser.add_argument(
        "--special-tokens",
        nargs="+",
        default=["<|endoftext|>"],
        metavar="TOKEN",
        help="special tokens; they get the first ids. The first one ends documents; as in GPT-2 it is the bos_token "
        "too, but no document begins with it",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the draw of documents")
    parser.add_argument(
        "--output", type=path_argument, required=True, help="folder (bpe) or .model file (sentencepiece)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, or 2 after an error that the user can fix."""
    arguments = build_parser().parse_args(argv)
    _run(arguments, Console(stderr=True))
    return 0


def _run(arguments: argparse.Namespace, console: Console) -> None:
    """Check everything, measure the corpora, train, write."""
    # Imported here: the tokenizer libraries take seconds, which --help should not cost.
    from megatron_prealign.text import tokenizer_training as training

    inputs = _inputs(arguments.input)
    num_own = training.SENTENCEPIECE_OWN_IDS if arguments.model_type == "sentencepiece" else 0
    problems = training.settings_problems(arguments.vocab_size, arguments.special_tokens, num_own)
    if not 0.0 <= arguments.temperature <= 1.0:
        problems.append(f"--temperature must be in [0, 1], got {arguments.temperature}")
    if arguments.clonable and arguments.model_type != "bpe":
        problems.append("--clonable is for --model-type bpe; English-Clone has no SentencePiece tokenizers")
    if problems := problems + output_problems(arguments.output, arguments.overwrite):
        raise ConfigError(problems)
    sizes = _measure(inputs, arguments.json_key)
    corpora = {language: partial(_texts, paths, arguments.json_key) for language, paths in inputs.items()}
    rates = training.sampling_rates(sizes, arguments.temperature)
    for language, size in sizes.items():
        console.print(f"{language}: {size / 1e6:.2f} MB, read {rates[language]:.2f} times")
    sample = training.sample_texts(corpora, rates, arguments.seed)
    console.print(f"training {arguments.vocab_size} ids ({arguments.model_type})")
    if arguments.model_type == "bpe":
        tokenizer = training.train_byte_level_bpe(
            sample, arguments.vocab_size, arguments.special_tokens, arguments.clonable
        )
        with atomic_folder(arguments.output, arguments.overwrite) as folder:
            settings = training.tokenizer_settings(arguments.special_tokens)
            training.write_tokenizer_folder(folder, tokenizer.to_str(pretty=True), settings)
    else:
        model = training.train_sentencepiece(sample, arguments.vocab_size, arguments.special_tokens)
        with atomic_file(arguments.output, arguments.overwrite) as temporary:
            temporary.write_bytes(model)
    console.print(f"wrote {arguments.output}")


def _inputs(options: Sequence[str]) -> dict[str, list[str]]:
    """Group the `LANG=PATH` options by language."""
    inputs: dict[str, list[str]] = {}
    for option in options:
        language, equals, path = option.partition("=")
        if not (language and equals and path):
            raise ConfigError(f"--input {option}: write LANG=PATH, for example en=english.jsonl")
        inputs.setdefault(language, []).append(path)
    return inputs


def _texts(paths: Sequence[str], json_key: str) -> Iterator[str]:
    """Yield the documents of one language, which `_measure` has checked."""
    return (document.text for document in read_documents(paths, json_key, Problems()))


def _measure(inputs: Mapping[str, Sequence[str]], json_key: str) -> dict[str, int]:
    """Return the bytes of text of each language after reading all of it.

    Raises:
        DataError: every line that can't be read, and languages without text.
    """
    problems = Problems()
    sizes: dict[str, int] = {}
    for language, paths in inputs.items():
        documents = read_documents(paths, json_key, problems)
        sizes[language] = sum(len(document.text.encode()) for document in documents)
        if not sizes[language] and not problems.count:
            problems.add(f"{language}: all documents are empty ({', '.join(paths)}); give files with text")
    problems.raise_if_any()
    return sizes


if __name__ == "__main__":
    raise SystemExit(main())
