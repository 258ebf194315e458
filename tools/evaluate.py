r"""Evaluate a Hugging Face folder: perplexity and word translation from options, any evaluation from a list of tasks.

python tools/evaluate.py --model exported --text en=valid.en.jsonl --text clone=valid.clone.jsonl \
    --lexicon trained.tsv --held-out-lexicon held_out.tsv --source-language en --output results.json
python tools/evaluate.py --model exported --tasks tasks.yaml --output results.json
python tools/evaluate.py --list
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megatron_prealign.command_line import path_argument, tool
from megatron_prealign.config.sources import Entry, given_at
from megatron_prealign.errors import STOPPED_BY_KEYBOARD, ConfigError, DataError
from megatron_prealign.evaluation.folder import check_folder
from megatron_prealign.evaluation.frame import plain_table, problems_of, show_progress
from megatron_prealign.evaluation.session import Session
from megatron_prealign.evaluation.task_list import (
    Task,
    check_tasks,
    describe_options,
    evaluation_names,
    find_evaluation,
    make_task,
    read_tasks,
    summary,
)
from megatron_prealign.text.tokenizer import load_tokenizer

# Tasks that --text, --lexicon and --held-out-lexicon create; options of both lexicon tasks.
PERPLEXITY, TRAINED, HELD_OUT = "perplexity", "retrieval_trained", "retrieval_held_out"
LEXICON_OPTIONS = ("source_language", "target_language", "max_pairs", "seed")


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the evaluation; return 0, or 2 after an error that the user can fix."""
    options = build_parser().parse_args(argv)
    if options.list is not None:
        _print_list(options.list)
        return 0
    try:
        results = evaluate(options)
    except KeyboardInterrupt:
        print("error: interrupted; pass --resume to keep the finished tasks", file=sys.stderr)
        return STOPPED_BY_KEYBOARD
    _print_tables(results)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=f"Evaluations that --tasks can name: {', '.join(evaluation_names())}; --list explains them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", type=path_argument, help="Hugging Face folder with tokenizer")
    parser.add_argument(
        "--eod-token", metavar="TOKEN", help="special token that ends documents; default: the tokenizer's eos_token"
    )
    parser.add_argument("--tasks", metavar="FILE", help="YAML list of evaluations with their options")
    parser.add_argument(
        "--list", nargs="?", const="", metavar="NAME", help="show all evaluations, or the options of one, and exit"
    )
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="LANGUAGE=PATH",
        help="JSONL or text file (one document per line) of a language; may be repeated, also for the same language",
    )
    parser.add_argument("--json-key", default="text", help="key of the text in JSONL files")
    for name, what in (("--lexicon", "trained"), ("--held-out-lexicon", "held-out")):
        parser.add_argument(name, nargs="+", action="extend", default=[], help=f"lexicon files of {what} pairs")
    parser.add_argument("--source-language", default="en", help="language of the lexicon's source words")
    parser.add_argument("--target-language", help="language of the translations, for files that do not name it")
    parser.add_argument("--max-pairs", type=int, default=2000, help="most word pairs per language pair")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw if there are more pairs")
    parser.add_argument(
        "--window", type=int, help="tokens read at once for perplexity; default: the sequence length of training"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device of the model")
    parser.add_argument("--output", type=path_argument, help="JSON file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")
    parser.add_argument(
        "--resume", action="store_true", help="keep the finished tasks of the output, or of an interrupted evaluation"
    )
    return parser


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Check all inputs, run the requested evaluations, write the results file and return its content."""
    problems: list[str] = []
    tasks = [*_option_tasks(options, problems), *(read_tasks(options.tasks, problems) if options.tasks else [])]
    if not tasks and not problems:
        problems.append("nothing to evaluate: give --text LANGUAGE=PATH, --lexicon, --held-out-lexicon or --tasks FILE")
    for name in ("model", "output"):
        if getattr(options, name) is None:
            problems.append(f"--{name} is required: give a path")
    problems += check_tasks(tasks)
    if options.model is not None:
        problems += problems_of(lambda: check_folder(options.model)) or problems_of(
            lambda: load_tokenizer(options.model, options.eod_token)
        )
    if options.model is None or options.output is None:
        raise DataError(problems)
    session = Session(options.model, options.device, options.output, show_progress, options.eod_token)
    problems += session.output_problems(resume=options.resume, overwrite=options.overwrite)
    if problems:
        raise DataError(problems)
    return session.run(tasks, lambda results: _summary(results, options), resume=options.resume)


def _option_tasks(options: argparse.Namespace, problems: list[str]) -> list[Task]:
    """Return the tasks of --text, --lexicon and --held-out-lexicon."""
    described: list[tuple[str, str, dict[str, Any]]] = []
    if options.text:
        texts: dict[str, list[str]] = {}
        for argument in options.text:
            language, separator, path = argument.partition("=")
            if language and separator and path:
                texts.setdefault(language, []).append(path)
            else:
                problems.append(f"--text {argument}: write it as LANGUAGE=PATH, for example en=valid.jsonl")
        values = {"texts": texts, "json_key": options.json_key, "window": options.window}
        described += [("perplexity", PERPLEXITY, values)] if texts else []
    shared = {name: getattr(options, name) for name in LEXICON_OPTIONS}
    if options.lexicon:
        described.append(("word_retrieval", TRAINED, {"lexicons": options.lexicon, **shared}))
    if options.held_out_lexicon:
        values = {"lexicons": options.held_out_lexicon, "known_lexicons": options.lexicon, **shared}
        described.append(("word_retrieval", HELD_OUT, values))
    tasks = []
    for kind, name, values in described:
        fields = {key: given_at(value, f"--{key.replace('_', '-')}") for key, value in values.items()}
        names = {"evaluation": given_at(kind, ""), "name": given_at(name, "")}
        tasks.append(make_task(Entry("", names | fields), problems))
    return [task for task in tasks if task is not None]


def _summary(results: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return the output's top-level entries for --text, --lexicon and --held-out-lexicon."""
    tasks = results["tasks"]
    retrieval = {"trained": TRAINED, "held_out": HELD_OUT}
    return {
        "perplexity": tasks[PERPLEXITY]["results"] if options.text else {},
        "retrieval": {
            name: tasks[task]["results"]["pairs"]
            for name, task in retrieval.items()
            if getattr(options, "lexicon" if name == "trained" else "held_out_lexicon")
        },
        "settings": {
            "window": options.window or results["window"],
            "max_pairs": options.max_pairs,
            "seed": options.seed,
        },
    }


def _print_list(name: str) -> None:
    """Show all evaluations, or the options of one."""
    console = Console()
    if not name:
        table = Table("evaluation", "what it measures", box=None)
        for known in evaluation_names():
            table.add_row(known, escape(summary(known)))
        console.print(table)
        console.print("\n--list NAME shows the options of one.")
        return
    if name not in evaluation_names():
        raise ConfigError(f"--list {name}: unknown evaluation; known are {', '.join(evaluation_names())}")
    table = Table("option", "default", "meaning", title=f"{name}: {summary(name)}", title_justify="left")
    for row in describe_options(name):
        table.add_row(*map(escape, row))
    console.print(table)


def _print_tables(results: Mapping[str, Any]) -> None:
    console = Console()
    for name, entry in results["tasks"].items():
        draw = find_evaluation(entry["evaluation"]).tables
        for table in draw(name, entry["results"]) if draw else [plain_table(name, entry["results"])]:
            console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
