"""The arithmetic of a run, shown by --dry-run and at the start of training."""

import dataclasses

from megatron_prealign.config.alignment_validation import aligns_sentences, aligns_words
from megatron_prealign.config.counts import count_non_embedding_parameters, count_parameters
from megatron_prealign.config.presets import PRESETS
from megatron_prealign.config.root import Config
from megatron_prealign.config.training import count_samples
from megatron_prealign.config.validation import count_microbatches, model_parallel_size


def differences(config: Config, standard: Config | None = None) -> list[tuple[str, object, object]]:
    """List ("section.field", value, other value) of each field that differs from its default, or from another's."""
    other = standard or Config()
    found = []
    for section in dataclasses.fields(Config):
        chosen, standing = getattr(config, section.name), getattr(other, section.name)
        for field in dataclasses.fields(chosen):
            value, usual = getattr(chosen, field.name), getattr(standing, field.name)
            if value != usual:
                found.append((f"{section.name}.{field.name}", value, usual))
    return found


def describe_changes(config: Config, before: Config) -> list[str]:
    """Return a line for each field that changed."""
    return [f"{name} = {_show(value)}  (was {_show(old)})" for name, value, old in differences(config, before)]


def describe(
    config: Config,
    world_size: int,
    vocab_size: int | None = None,
    word_tokens: float | None = None,
    sentence_tokens: float | None = None,
    done: tuple[int, int] = (0, 0),
) -> str:
    """Describe what differs from the defaults, then the arithmetic of the run.

    Args:
        config: Checked configuration, preset resolved.
        world_size: Number of ranks; a multiple of the model-parallel size.
        vocab_size: Vocabulary of the tokenizer in tokens, where known; model.vocab_size wins over it.
        word_tokens: Expected tokens of a word microbatch, where the lexicon is known.
        sentence_tokens: The same for a sentence microbatch.
        done: Steps already done and their sequences, which earlier settings may have batched differently.
    """
    lines = ["Different from the defaults:"]
    lines.extend(f"  {name} = {_show(value)}  (default {_show(usual)})" for name, value, usual in differences(config))
    if len(lines) == 1:
        lines = ["Nothing differs from the defaults."]
    facts = [
        *_model_facts(config, vocab_size),
        *_layout_facts(config, world_size),
        *_step_facts(config, {"word": word_tokens, "sentence": sentence_tokens}, done),
    ]
    width = max(len(name) for name, _ in facts)
    return "\n".join([*lines, "", "Arithmetic:", *(f"  {name:<{width}}  {text}" for name, text in facts)])


def _model_facts(config: Config, vocab_size: int | None) -> list[tuple[str, str]]:
    """Describe the model's shape and parameters."""
    model = config.model
    shape = (
        f"{model.architecture}, {model.num_layers} layers x {model.hidden_size}, {model.num_attention_heads} heads "
        f"in {model.num_key_value_heads} groups, FFN {model.ffn_hidden_size}"
    )
    vocab_size = model.vocab_size or vocab_size
    if vocab_size is not None:
        source = ""
    elif model.preset is not None:
        vocab_size, source = PRESETS[model.preset].vocab_size, f", assumed for preset {model.preset}"
    else:
        return [("model", shape), ("parameters", f"{_count(count_non_embedding_parameters(model))} without embeddings")]
    rows = dataclasses.replace(model, vocab_size=vocab_size).padded_vocab_size
    parameters = (
        f"{_count(count_parameters(model, vocab_size))} in total, "
        f"{_count(count_non_embedding_parameters(model))} without embeddings"
    )
    vocabulary = f"{vocab_size:,} tokens{source}, padded to {rows:,} rows"
    return [("model", shape), ("parameters", parameters), ("vocabulary", vocabulary)]


def _layout_facts(config: Config, world_size: int) -> list[tuple[str, str]]:
    """Describe the ranks per axis and the microbatches a rank runs each step."""
    training, parallel = config.training, config.parallel
    data_parallel = world_size // model_parallel_size(config)
    context = f"x {parallel.context_parallel_size} context " if parallel.context_parallel_size > 1 else ""
    ranks = (
        f"{parallel.tensor_model_parallel_size} tensor x {parallel.pipeline_model_parallel_size} pipeline {context}"
        f"x {data_parallel} data = {world_size}"
    )
    microbatches = (
        f"{count_microbatches(config, world_size)} of {training.micro_batch_size} sequences per data-parallel rank"
    )
    return [("ranks", ranks), ("microbatches per step", microbatches)]


def _step_facts(config: Config, item_tokens: dict[str, float | None], done: tuple[int, int]) -> list[tuple[str, str]]:
    """Describe the tokens, steps and groups of the run."""
    training = config.training
    tokens = training.global_batch_size * config.data.seq_length
    text_tokens = _count(count_samples(training, *done) * config.data.seq_length)
    facts = [("tokens per step", f"{tokens:,} ({training.global_batch_size} sequences x {config.data.seq_length})")]
    if training.rampup_batch_size is not None:
        start, increment, samples = training.rampup_batch_size
        facts.append(("batch size ramp-up", f"from {start} by {increment} over {samples:,} sequences"))
    facts.append(("steps", f"{training.train_steps:,} of stage {training.stage}"))
    kinds = [kind for kind, aligns in (("word", aligns_words), ("sentence", aligns_sentences)) if aligns(config)]
    items = [_item_facts(config, kind, item_tokens[kind]) for kind in kinds]
    all_tokens = ", and ".join([text_tokens, *(tokens for tokens, _ in items)])
    return [*facts, ("total tokens", all_tokens), *(groups for _, groups in items)]


def _item_facts(config: Config, kind: str, mean_tokens: float | None) -> tuple[str, tuple[str, str]]:
    """Describe the tokens of words or sentences in the whole run, and their groups per step."""
    alignment, training = config.alignment, config.training
    count: int = getattr(alignment, f"num_{kind}_microbatches")
    size: int = getattr(alignment, f"{kind}_batch_size")
    interval = 1 if training.stage == "align_init" else alignment.maintain_interval
    tokens = f"those of the {kind}s"
    if mean_tokens is not None:
        num_steps = -(-training.train_steps // interval)
        tokens = f"about {_count(round(num_steps * count * mean_tokens))} of {kind}s"
    name = "lexicon entries" if kind == "word" else "groups of sentences"
    each = "a word and its translations" if kind == "word" else "a sentence in all its languages"
    groups = f"{size * count:,} ({count} {kind} microbatches x {size}), each {each}"
    return tokens, (f"{name} per step" if interval == 1 else f"{name} every {interval} steps", groups)


def _count(number: int) -> str:
    """Format a count: exact up to six digits, then also rounded to three figures."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if number >= size:
            return f"{number / size:.3g} {unit} ({number:,})"
    return f"{number:,}"


def _show(value: object) -> str:
    """Format a value as the command line takes it."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "[" + ", ".join(_show(entry) for entry in value) + "]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        chosen = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return "{" + ", ".join(f"{name}: {_show(it)}" for name, it in chosen.items() if it is not None) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) or "''"
