"""From the alignment section to word batches and the word pairs whose retrieval is measured."""

from functools import partial

from megatron_prealign.alignment import Taps
from megatron_prealign.config import AlignmentConfig, Config
from megatron_prealign.config.alignment_validation import has_alignment_loss, measures_retrieval
from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import Lexicon, read_lexicon
from megatron_prealign.pairs.batches import WordBatches
from megatron_prealign.pairs.table import WordTable
from megatron_prealign.platform import Mesh
from megatron_prealign.text.tokenizer import Tokenizer
from megatron_prealign.training.word_validation import PairSet, WordValidator, select_pair_sets


def plan_words(config: Config, tokenizer: Tokenizer) -> tuple[WordBatches | None, list[PairSet]]:
    """Read the lexicons that the run needs, and draw the pairs to measure.

    Raises:
        DataError: a lexicon that can't be read, or holds too few words that the tokenizer can write.
    """
    alignment, seed = config.alignment, config.training.seed
    if not has_alignment_loss(config) and not measures_retrieval(config):
        return None, []
    read = partial(read_lexicon, source_language=alignment.source_language, target_language=alignment.target_language)
    lexicons: dict[str, Lexicon] = {}
    for name, paths in (("trained", alignment.lexicon_paths), ("held_out", alignment.held_out_lexicon_paths)):
        if paths:
            lexicons[name] = read(paths)
    _check_lexicons(lexicons, alignment)
    words = None
    if has_alignment_loss(config):
        words = WordBatches(
            WordTable.build(lexicons["trained"], tokenizer, alignment.max_word_tokens),
            seed,
            alignment.word_batch_size,
            row_length=alignment.word_row_length,
            num_hard_negatives=alignment.num_hard_negatives,
        )
    pair_sets = []
    if measures_retrieval(config):
        pair_sets = select_pair_sets(lexicons, tokenizer, alignment.eval_word_pairs, alignment.max_word_tokens, seed)
    return words, pair_sets


def _check_lexicons(lexicons: dict[str, Lexicon], alignment: AlignmentConfig) -> None:
    """Refuse lexicons that translate into their own language, and held-out words that are all trained on."""
    problems = []
    for lexicon, paths in zip(lexicons.values(), _paths(alignment), strict=True):
        if lexicon.source_language in lexicon.languages:
            problems.append(
                f"{', '.join(paths)}: translations into {lexicon.source_language}, which is alignment.source_language; "
                "mend the languages of the file, or alignment.source_language and alignment.target_language"
            )
    if len(lexicons) == 2:
        trained, held_out = ({entry.word for entry in lexicon.entries} for lexicon in lexicons.values())
        if held_out <= trained:
            problems.append(
                f"{', '.join(alignment.held_out_lexicon_paths)}: every word is trained on too; keep some apart, with "
                "tools/build_lexicon.py --held-out-ratio"
            )
    if problems:
        raise DataError(problems)


def _paths(alignment: AlignmentConfig) -> list[tuple[str, ...]]:
    return [paths for paths in (alignment.lexicon_paths, alignment.held_out_lexicon_paths) if paths]


def build_word_validator(config: Config, pair_sets: list[PairSet], taps: Taps, mesh: Mesh) -> WordValidator:
    """Build the validator over the pairs drawn by `plan_words`."""
    parallel = config.parallel
    interleaved = parallel.virtual_pipeline_model_parallel_size is not None
    # Interleaved pipelines run whole rounds of microbatches.
    num_microbatches = parallel.pipeline_model_parallel_size if interleaved else 1
    return WordValidator(pair_sets, taps, config.alignment.word_row_length, num_microbatches, mesh)
