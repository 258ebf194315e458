"""Evaluate a Hugging Face folder: perplexity per language and word-translation retrieval by tap.

python tools/evaluate.py --model exported --text en=valid.en.jsonl --text clone=valid.clone.jsonl \
    --lexicon trained.tsv --held-out-lexicon held_out.tsv --source-language en --output results.json
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from megatron_prealign import __version__
from megatron_prealign.errors import DataError, PrealignError
from megatron_prealign.lexicon import Lexicon, normalize_language, read_lexicon
from megatron_prealign.lexicon.corpus import read_documents
from megatron_prealign.lexicon.problems import Problems

Update = Callable[[int, int], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the evaluation; return 0, or 2 after an error that the user can mend."""
    options = _parser().parse_args(argv)
    try:
        results = evaluate(options)
    except (PrealignError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print_tables(results)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder with tokenizer")
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="LANGUAGE=PATH",
        help="JSONL or text file (a document a line) of one language; may be repeated, also for one language",
    )
    parser.add_argument("--json-key", default="text", help="key of the text in JSONL files")
    for name, what in (("--lexicon", "trained"), ("--held-out-lexicon", "held-out")):
        parser.add_argument(
            name, action="append", type=Path, default=[], help=f"lexicon file of {what} pairs; may be repeated"
        )
    parser.add_argument("--source-language", default="en", help="language of the lexicon's source words")
    parser.add_argument("--target-language", help="language of translations in files that name none")
    parser.add_argument("--max-pairs", type=int, default=2000, help="word pairs of a language pair, at most")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw where there are more pairs")
    parser.add_argument(
        "--window", type=int, help="input tokens at once for perplexity; none = the length the model was trained on"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the model runs")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")
    return parser


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Check all inputs, run the evaluations asked for, write the results file and return its content."""
    texts, lexicons = _read_inputs(options)
    # torch and transformers take seconds to import: wrong input is told before that.
    from megatron_prealign.checkpoint.folder import write_atomically
    from megatron_prealign.evaluation.folder import open_folder
    from megatron_prealign.evaluation.perplexity import measure_perplexity
    from megatron_prealign.evaluation.retrieval import measure_retrieval, model_tap_names, token_ids_of

    folder = open_folder(options.model, options.device)
    taps = model_tap_names(folder.model)
    results: dict[str, Any] = {"model": folder.name, "perplexity": {}, "retrieval": {}, "taps": taps}
    for language, documents in texts.items():
        with _progress(f"perplexity {language}") as update:
            measured = measure_perplexity(folder, documents, window=options.window, progress=update)
        results["perplexity"][language] = measured.to_json()
    trained = lexicons.get("trained")
    for name, lexicon in lexicons.items():
        known = None
        if name == "held_out" and trained is not None:
            known = token_ids_of(trained, folder.tokenizer)
        with _progress(f"retrieval {name}") as update:
            results["retrieval"][name] = measure_retrieval(
                folder,
                lexicon,
                max_pairs=options.max_pairs,
                seed=options.seed,
                known_tokens=known,
                progress=update,
            )
    results["settings"] = {
        "window": options.window or folder.window,
        "max_pairs": options.max_pairs,
        "seed": options.seed,
    }
    results["versions"] = {
        "megatron_prealign": __version__,
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return results


def _read_inputs(options: argparse.Namespace) -> tuple[dict[str, list[str]], dict[str, Lexicon]]:
    """Read texts by language and lexicons by name.

    Raises:
        DataError: everything wrong with any of the inputs.
    """
    problems: list[str] = []
    if not (options.text or options.lexicon or options.held_out_lexicon):
        problems.append("nothing to evaluate: give --text LANGUAGE=PATH, --lexicon or --held-out-lexicon")
    if options.output.exists() and not options.overwrite:
        problems.append(f"{options.output} exists: name another file, or pass --overwrite to replace it")
    for name in ("max_pairs", "window"):
        if (value := getattr(options, name)) is not None and value < 1:
            problems.append(f"--{name.replace('_', '-')} is {value}: it must be at least 1")
    texts = _collect(problems, partial(_read_texts, options.text, options.json_key)) or {}
    lexicons: dict[str, Lexicon] = {}
    for name, paths in (("trained", options.lexicon), ("held_out", options.held_out_lexicon)):
        if paths:
            read = partial(read_lexicon, paths, options.source_language, options.target_language)
            lexicon = _collect(problems, read)
            lexicons |= {name: lexicon} if lexicon else {}
    _collect(problems, partial(_check_model, options.model))
    if problems:
        raise DataError(problems)
    return texts, lexicons


def _check_model(path: Path) -> None:
    # Imported here: the module needs torch.
    from megatron_prealign.data.tokenizer import load_tokenizer
    from megatron_prealign.evaluation.folder import check_folder

    check_folder(path)
    load_tokenizer(path)


def _collect(problems: list[str], read: Callable[[], Any]) -> Any:
    """Return what `read` returns, or note its problems."""
    try:
        return read()
    except PrealignError as error:
        problems.extend(error.problems)
        return None


def _read_texts(arguments: Sequence[str], json_key: str) -> dict[str, list[str]]:
    """Read LANGUAGE=PATH arguments: documents by language."""
    problems = Problems()
    texts: dict[str, list[str]] = {}
    for argument in arguments:
        language, separator, path = argument.partition("=")
        if not (language and separator and path):
            problems.add(f"--text {argument}: write it as LANGUAGE=PATH, for example en=valid.jsonl")
            continue
        documents = [document.text for document in read_documents([path], json_key, problems)]
        if documents and not any(text.strip() for text in documents):
            problems.add(f"{path}: all its documents are empty")
        texts.setdefault(normalize_language(language), []).extend(documents)
    problems.raise_if_any()
    return texts


@contextmanager
def _progress(title: str) -> Iterator[Update]:
    """Show progress on stderr: a bar on a terminal, else a line at every tenth of the work."""
    console = Console(stderr=True)
    if not console.is_terminal:
        tenth = 0

        def line(done: int, total: int) -> None:
            nonlocal tenth
            if done * 10 // total > tenth:
                tenth = done * 10 // total
                print(f"{title}: {done}/{total}", file=sys.stderr, flush=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_tables(results: dict[str, Any]) -> None:
    console = Console()
    if results["perplexity"]:
        table = Table("language", "perplexity", "per byte", "loss", "tokens", "documents", title="Perplexity")
        for language, row in results["perplexity"].items():
            numbers = (f"{row[key]:.4g}" if row[key] else "-" for key in ("perplexity", "byte_perplexity", "loss"))
            table.add_row(language, *numbers, f"{row['tokens']:,}", f"{row['documents']:,}")
        console.print(table)
    for name, pairs in results["retrieval"].items():
        for pair, row in pairs.items():
            console.print(_retrieval_table(pair, name, row, results["taps"]))


def _retrieval_table(pair: str, name: str, row: dict[str, Any], taps: list[str]) -> Table:
    columns = {"p_at_1": "P@1", "mean_cosine": "mean cosine", "anisotropy": "anisotropy"}
    title = f"Retrieval {pair}, {name.replace('_', '-')} words ({row['num_pairs']:,} pairs)"
    if "num_known_source_words" in row:
        columns |= {"p_at_1_known": "P@1 known", "p_at_1_new": "P@1 new"}
        title += f"\nknown: all tokens occur in trained words, {row['num_known_source_words']:,} source words"
    table = Table("tap", *columns.values(), title=title)
    for index, tap in enumerate(taps):
        scores = [row[key][index] for key in columns]
        table.add_row(tap, *("-" if score is None else f"{score:.3f}" for score in scores))
    return table


if __name__ == "__main__":
    raise SystemExit(main())
