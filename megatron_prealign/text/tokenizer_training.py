"""Training of a tokenizer on several languages, byte-level BPE or SentencePiece.

Languages are balanced by temperature: language i has a share p_i ∝ n_i ** temperature of the training bytes, n_i
being the size of its corpus. 1 keeps the natural shares, 0 makes all equal.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from megatron_prealign.errors import ConfigError, DataError
from megatron_prealign.text.tokenizer_json import QWEN_3_5, WITHOUT_CONTRACTIONS

Texts = Callable[[], Iterator[str]]
"""Starts another pass over the documents of one language."""

SENTENCEPIECE_OWN_IDS = 1
"""SentencePiece needs an `<unk>`."""

# Other libraries know few splitting rules, and split text wrongly or not at all by any other. Of those, Qwen3.5's keeps
# combining marks with their letters (Hindi, Thai), and llama.cpp applies it as it is written. It joins a quote or a tab
# to the word behind it: merges are learned as if only spaces were joined, so no token has both, and words are found.
_QWEN_3_5_AT_WORDS = QWEN_3_5.replace(r"[^\r\n\p{L}\p{N}]?", " ?")

_NUM_BYTES = 256
# SentencePiece silently skips longer lines; no line of real text is near this length.
_MAX_SENTENCE_BYTES = 1 << 20
# Settings of tokenizer_config.json that belong to the original class of a tokenizer.
_CLASS_SETTINGS = frozenset(
    ("added_tokens_decoder", "auto_map", "backend", "is_local", "tokenizer_file", "vocab_file", "merges_file")
)


def settings_problems(vocab_size: int, special_tokens: Sequence[str], num_own: int = 0) -> list[str]:
    """Return what is wrong with the settings of a tokenizer to be trained.

    `num_own` ids are needed by the kind of tokenizer itself, besides the 256 bytes and the special tokens.
    """
    problems: list[str] = []
    if not special_tokens or any(len(token) < 2 or token != token.strip() for token in special_tokens):
        rule = "give at least one, each of two characters or more without white space at its ends, like <|endoftext|>"
        problems.append(f"special tokens {list(special_tokens)}; {rule}")
    if len(set(special_tokens)) != len(special_tokens):
        problems.append(f"special tokens {list(special_tokens)} repeat; give each once")
    smallest = _NUM_BYTES + len(special_tokens) + num_own
    if vocab_size < smallest:
        problems.append(f"vocab_size is {vocab_size}; bytes and special tokens alone need {smallest}")
    return problems


def sampling_rates(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Return how many times each language's corpus is read, keeping the total size.

    Args:
        sizes: bytes of each language, all positive.
        temperature: exponent in [0, 1] of p_i ∝ n_i ** temperature.
    """
    if not 0.0 <= temperature <= 1.0:
        raise ConfigError(f"temperature is {temperature}; give a number in [0, 1] (1 keeps the corpora's shares)")
    flattened = {language: size**temperature for language, size in sizes.items()}
    scale = sum(sizes.values()) / sum(flattened.values())
    return {language: scale * flattened[language] / size for language, size in sizes.items()}


def sample_texts(corpora: Mapping[str, Texts], rates: Mapping[str, float], seed: int) -> Iterator[str]:
    """Yield every document `rate` times on average: the integer part always, once more with the rest as probability.

    The draw of a document is a hash of (seed, language, number), so the sample depends on nothing else.
    """
    for language, texts in corpora.items():
        whole, rest = divmod(rates[language], 1.0)
        for index, text in enumerate(texts()):
            digest = hashlib.blake2b(f"{seed}\t{language}\t{index}".encode(), digest_size=8).digest()
            again = int.from_bytes(digest, "big") / 2.0**64 < rest
            for _ in range(int(whole) + again):
                yield text


def train_byte_level_bpe(
    texts: Iterator[str], vocab_size: int, special_tokens: Sequence[str], is_clonable: bool = False
) -> Tokenizer:
    """Train a byte-level BPE tokenizer that decodes exactly; special tokens get the first ids.

    Args:
        texts: documents to train on.
        vocab_size: number of ids.
        special_tokens: names of special tokens.
        is_clonable: whether English-Clone can be made of it. Other libraries do not know its splitting rule.

    Raises:
        ConfigError: the special tokens are unusable, or the vocabulary has no room for them and the bytes.
        DataError: the text has too few repeating pieces for this many ids.
    """
    if problems := settings_problems(vocab_size, special_tokens):
        raise ConfigError(problems)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _split_by(WITHOUT_CONTRACTIONS if is_clonable else _QWEN_3_5_AT_WORDS)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    reached = tokenizer.get_vocab_size()
    if reached != vocab_size:
        raise DataError(f"the text is enough for only {reached} ids; lower --vocab-size to {reached} or give more text")
    if not is_clonable:
        tokenizer.pre_tokenizer = _split_by(QWEN_3_5)
    return tokenizer


def _split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Return the steps of byte-level BPE whose tokens are within the matches of a regular expression."""
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train_sentencepiece(texts: Iterator[str], vocab_size: int, special_tokens: Sequence[str]) -> bytes:
    """Return the `.model` file of a SentencePiece BPE model with byte fallback that leaves text unchanged.

    The first special token is the end-of-document token (eos); id 0 is `<unk>`, which bytes make unreachable. Errors
    are those of `train_byte_level_bpe`.
    """
    if problems := settings_problems(vocab_size, special_tokens, SENTENCEPIECE_OWN_IDS):
        raise ConfigError(problems)
    model = io.BytesIO()
    lines = (line for text in texts for line in text.splitlines() if line.strip())
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            character_coverage=0.9995,
            unk_id=0,
            eos_id=1,
            eos_piece=special_tokens[0],
            bos_id=-1,
            pad_id=-1,
            control_symbols=list(special_tokens[1:]),
            max_sentence_length=_MAX_SENTENCE_BYTES,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DataError(f"SentencePiece can't train {vocab_size} ids on this text: {error}") from error
    return model.getvalue()


def write_tokenizer_folder(folder: Path, tokenizer_json: str, settings: Mapping[str, object]) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` so that transformers 4 and 5 use the former unchanged.

    Named classes such as GPT2Tokenizer would build their own pre-tokenizer over the vocabulary, and cleaning up
    spaces would make decoding inexact. `settings` are further entries of `tokenizer_config.json`, such as `eos_token`.
    """
    kept = {name: value for name, value in settings.items() if name not in _CLASS_SETTINGS}
    config = {**kept, "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def tokenizer_settings(special_tokens: Sequence[str]) -> dict[str, object]:
    """Return the settings of a new tokenizer: the first special token ends documents, none begins them.

    It is the bos_token too, as GPT-2's, because some libraries refuse a model without one (CTranslate2). Only a
    post-processor would make a tokenizer add it.
    """
    settings: dict[str, object] = {"bos_token": special_tokens[0], "eos_token": special_tokens[0]}
    if others := list(special_tokens[1:]):
        settings["additional_special_tokens"] = others
    return settings
