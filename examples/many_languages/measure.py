"""Hold a model's 13 languages against English: word translation, and retrieval of the articles of the UDHR.

Every step is a command line that is printed as it runs and can be typed by hand. Finished steps are reused.

    python examples/many_languages/measure.py --model runs/english_clone/seed_1/prealign_huggingface
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_prealign.command_line import tool

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples.commands import make_step
from examples.many_languages.aligned_sources import CEDICT_MEMBER, FREEDICT
from examples.steps import Step, absolute_path, example_parser, repository_path, run_example

EXAMPLE = Path("examples/many_languages")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = example_parser(__doc__, "runs/many_languages")
    parser.add_argument("--model", type=repository_path, required=True, help="Hugging Face folder with tokenizer")
    parser.add_argument("--max-translations", type=int, default=2, help="translations of a word in each language")
    parser.add_argument("--packages", type=absolute_path, help="folder of packages that are downloaded already")
    return parser.parse_args(argv)


def make_steps(arguments: argparse.Namespace) -> list[Step]:
    """Return the steps: fetch, build the lexicon, evaluate."""
    folder = arguments.output
    command: list[object] = [EXAMPLE / "aligned_sources.py", "--output", folder / "sources"]
    if arguments.packages:
        command += ["--packages", arguments.packages]
    sources = make_step("sources", command, [folder / "sources"])

    command = ["tools/build_lexicon.py", "dictionaries", "--source-language", "en", "--multi-word"]
    files = {language: f"freedict-eng-{code}.index" for language, code in FREEDICT.items()}
    for language, name in (files | {"zh": Path(CEDICT_MEMBER).name}).items():
        command += ["--input", f"{language}={folder}/sources/{name}"]
    command += ["--max-translations", arguments.max_translations, "--output", folder / "lexicon.tsv"]
    lexicon = make_step("lexicon", command, [folder / "lexicon.tsv"], sources)

    tasks = folder / "tasks.yaml"
    tasks.parent.mkdir(parents=True, exist_ok=True)
    tasks.write_text(
        f"- evaluation: word_retrieval\n  lexicons: {folder}/lexicon.tsv\n"
        f"- evaluation: sentence_retrieval\n  name: articles\n  texts: {folder}/sources/articles.jsonl\n",
        encoding="utf-8",
    )
    result = folder / f"{arguments.model.resolve().name}.json"
    command = ["tools/evaluate.py", "--model", arguments.model, "--tasks", tasks, "--output", result, "--resume"]
    evaluate = make_step(result.stem, command, [result], lexicon, inputs=(tasks,), resumable=True)
    return [sources, lexicon, evaluate]


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    arguments = parse_arguments(argv)
    return run_example(arguments, lambda runner: runner.run_all(make_steps(arguments)))


if __name__ == "__main__":
    raise SystemExit(main())
