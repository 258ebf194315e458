r"""Bake a corpus: tokenize it, switch words by a dictionary, and write a Megatron dataset with switch records.

    python tools/preprocess_codeswitch.py --input corpus.jsonl --tokenizer-model tok/ --lexicon en-de.tsv \
        --codeswitch-ratio 0.05 --append-eod --output-prefix data/en --workers 8

writes data/en_text_document.bin/.idx (input tokens; any Megatron tool reads them), .switch.bin/.idx (switch
records) and .json (the manifest). To verify or inspect a dataset:

    python tools/preprocess_codeswitch.py --verify data/en_text_document [--tokenizer-model tok/]
    python tools/preprocess_codeswitch.py --inspect data/en_text_document --document 3 --tokenizer-model tok/
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

# Before numpy is imported: every process would start threads for linear algebra, which a bake does not use.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from rich.console import Console

from megatron_prealign.bake.bake import bake, submit
from megatron_prealign.bake.inspection import inspect_document, statistics_table
from megatron_prealign.bake.options import BakeOptions
from megatron_prealign.bake.verify import verify
from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.errors import ConfigError
from megatron_prealign.lexicon import normalize_language, read_lexicon
from megatron_prealign.text.tokenizer import load_tokenizer

# Share of covered words below which to warn; real pairs of corpus and dictionary have many times more.
_LOW_COVERAGE = 0.005


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    _add_corpus(parser)
    _add_switch(parser)
    _add_output(parser)
    looking = parser.add_argument_group("instead of baking")
    looking.add_argument("--verify", type=path_argument, metavar="DATASET", help="verify every byte of a dataset")
    looking.add_argument(
        "--inspect", type=path_argument, metavar="DATASET", help="print a document with switched words marked"
    )
    looking.add_argument("--document", type=int, default=0, help="number of the document to print, from 0")
    return parser


def _add_corpus(parser: argparse.ArgumentParser) -> None:
    corpus = parser.add_argument_group("corpus and tokenizer")
    corpus.add_argument(
        "--input",
        type=path_argument,
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="files, folders and globs, baked in this order: .jsonl, .json, .ndjson (one object per line), .txt "
        "(one document per line), each also with .gz or .zst, and .parquet",
    )
    corpus.add_argument(
        "--json-key", default="text", help="key of the text, or column of parquet; part of the output's name"
    )
    corpus.add_argument(
        "--tokenizer-model",
        type=path_argument,
        metavar="PATH",
        help="tokenizer.json, a folder with one, or SentencePiece .model",
    )
    corpus.add_argument(
        "--append-eod", action="store_true", help="end each document with the tokenizer's end-of-document token"
    )
    corpus.add_argument(
        "--eod-token",
        metavar="TOKEN",
        help="special token that ends documents; default: the tokenizer's eos_token, which in chat models ends a turn",
    )
    corpus.add_argument(
        "--bos",
        choices=("auto", "always", "never"),
        default="auto",
        help="begin each document with the begin-of-document token; auto: if the tokenizer adds one",
    )
    corpus.add_argument(
        "--split-sentences",
        metavar="LANGUAGE",
        dest="sentence_language",
        help="make each sentence a sequence, found by nltk's Punkt model of this language (english, german, ...), "
        "which must be on disk",
    )
    corpus.add_argument(
        "--on-error",
        choices=("fail", "skip"),
        default="fail",
        help="what to do with a line without usable text: stop, or count and skip it",
    )


def _add_switch(parser: argparse.ArgumentParser) -> None:
    switch = parser.add_argument_group("code-switch")
    switch.add_argument(
        "--lexicon",
        type=path_argument,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="dictionaries; merged",
    )
    switch.add_argument("--source-language", default="en", help="language of the corpus and of the source words")
    switch.add_argument("--target-language", help="language of the translations, for dictionaries that do not name it")
    switch.add_argument(
        "--codeswitch-ratio", type=float, default=0.0, help="probability in [0, 1] that a covered word is switched"
    )
    switch.add_argument(
        "--case-transfer",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also match Capitalised and CAPITALS words, and give their translations that form",
    )
    switch.add_argument("--max-translations", type=int, help="most translations per word and language to draw from")
    switch.add_argument(
        "--stop-words", type=path_argument, metavar="FILE", help="source words that are never switched, one per line"
    )
    switch.add_argument(
        "--max-rank",
        type=int,
        default=0,
        help="never switch the source language's most frequent words up to this rank (wordfreq): function words are "
        "most of the covered words and translated worst",
    )
    switch.add_argument(
        "--language-weights",
        nargs="+",
        action="extend",
        default=[],
        metavar="LANGUAGE=WEIGHT",
        help="relative probabilities of target languages; 1 for others",
    )
    switch.add_argument("--seed", type=int, default=1, help="seed of all draws")


def _add_output(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output and running")
    output.add_argument(
        "--output-prefix", type=path_argument, metavar="PREFIX", help="files are named PREFIX_<json key>_document.*"
    )
    output.add_argument("--overwrite", action="store_true", help="replace an existing dataset")
    output.add_argument(
        "--resume", action="store_true", help="resume an interrupted bake; a finished one is left unchanged"
    )
    output.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes, or tasks on a cluster; the output does not depend on it",
    )
    output.add_argument(
        "--backend",
        choices=("auto", "reference", "gigatoken"),
        default="auto",
        help="encoder: the tokenizer's own library, or gigatoken; auto: gigatoken where it is proved to give equal ids",
    )
    output.add_argument(
        "--executor",
        choices=("local", "slurm", "ray"),
        default="local",
        help="executor of the workers: this machine, a Slurm job array, or a Ray cluster; the last two need a "
        "shared file system",
    )
    output.add_argument(
        "--cluster",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="for Slurm: partition, time, memory_gb and venv (an activate script, by default the environment of this "
        "command), others are passed to sbatch; for Ray: address and memory_gb",
    )


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, 1 for a damaged dataset, 2 after an error that the user can fix."""
    arguments = build_parser().parse_args(argv)
    if arguments.verify:
        return _verify(arguments)
    if arguments.inspect:
        return _inspect(arguments)
    return _bake(arguments, sys.argv[1:] if argv is None else argv)


def _bake(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    _require(arguments, "input", "tokenizer_model", "output_prefix")
    options = BakeOptions(
        input_paths=tuple(arguments.input),
        tokenizer_path=arguments.tokenizer_model,
        output_prefix=arguments.output_prefix,
        json_key=arguments.json_key,
        lexicon_paths=tuple(arguments.lexicon),
        source_language=arguments.source_language,
        target_language=arguments.target_language,
        codeswitch_ratio=arguments.codeswitch_ratio,
        case_transfer=arguments.case_transfer,
        max_translations=arguments.max_translations,
        stop_words_path=arguments.stop_words,
        max_rank=arguments.max_rank,
        language_weights=_weights(arguments.language_weights),
        seed=arguments.seed,
        append_eod=arguments.append_eod,
        eod_token=arguments.eod_token,
        bos=arguments.bos,
        sentence_language=arguments.sentence_language,
        backend=arguments.backend,
        num_workers=arguments.workers,
        on_error=arguments.on_error,
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        executor=arguments.executor,
        cluster=_settings("--cluster", arguments.cluster),
        command=shlex.join(["preprocess_codeswitch.py", *argv]),
    )
    if options.executor == "slurm":
        job_id = submit(options, _log)
        print(
            f"submitted; Slurm job {job_id} completes the dataset when all tasks have ended; the logs are in "
            f"{options.slurm_logs}"
        )
        return 0
    manifest = bake(options, log=_log)
    Console().print(statistics_table(options.dataset_prefix, manifest))
    counts = manifest.content["counts"]
    if options.codeswitch_ratio > 0 and counts["covered"] < _LOW_COVERAGE * counts["words"]:
        print(
            f"warning: the lexicon covers only {counts['covered']:,} of the corpus's {counts['words']:,} words; check "
            "that the text is in --source-language, and the direction of the dictionary",
            file=sys.stderr,
        )
    if options.lexicon_paths and not options.codeswitch_ratio:
        print("warning: --codeswitch-ratio is 0, so nothing was switched", file=sys.stderr)
    return 0


def _log(message: str) -> None:
    print(f"bake: {message}", file=sys.stderr)


def _settings(option: str, pairs: Sequence[str]) -> dict[str, str]:
    wrong = [f"{option} {pair}: write it as NAME=VALUE" for pair in pairs if "=" not in pair]
    if wrong:
        raise ConfigError(wrong)
    return dict(pair.split("=", 1) for pair in pairs)


def _weights(pairs: Sequence[str]) -> dict[str, float]:
    named = _settings("--language-weights", pairs)
    try:
        return {normalize_language(language): float(weight) for language, weight in named.items()}
    except ValueError as error:
        raise ConfigError(f"--language-weights: {error}; write LANGUAGE=NUMBER, such as de=2") from None


def _verify(arguments: argparse.Namespace) -> int:
    tokenizer = load_tokenizer(arguments.tokenizer_model) if arguments.tokenizer_model else None
    problems = verify(arguments.verify, tokenizer)
    for problem in problems:
        print(f"problem: {problem}")
    print(f"{arguments.verify}: {'problems found' if problems else 'no problems found'}")
    return 1 if problems else 0


def _inspect(arguments: argparse.Namespace) -> int:
    _require(arguments, "tokenizer_model")
    lexicon = None
    if arguments.lexicon:
        lexicon = read_lexicon(arguments.lexicon, arguments.source_language, arguments.target_language)
    tokenizer = load_tokenizer(arguments.tokenizer_model)
    print(inspect_document(arguments.inspect, arguments.document, tokenizer, lexicon))
    return 0


def _require(arguments: argparse.Namespace, *names: str) -> None:
    missing = [f"--{name.replace('_', '-')} is required" for name in names if not getattr(arguments, name)]
    if missing:
        raise ConfigError(missing)


if __name__ == "__main__":
    raise SystemExit(main())
