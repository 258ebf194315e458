"""A SentencePiece model as a tokenizers model: for exported folders without a .model file, and for other encoders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from megatron_prealign.errors import DataError
from megatron_prealign.text.tokenizer import read_sentencepiece

_SPACE = "▁"
_UNIGRAM, _BPE = 1, 2
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 3, 4, 5, 6
_NEVER = -1e4


def convert_sentencepiece(path: Path, more_tokens: Mapping[str, int]) -> Tokenizer:
    """Build the tokenizers equivalent of a SentencePiece BPE or unigram model; piece i keeps id i.

    `more_tokens` are special tokens that the folder adds to the model, with their ids.

    Equality of ids on text is for the caller to check: both libraries have corners that the other lacks. Two are known.
    A unigram model finds several cuts of a repeated character ("*****") equally probable, and each library has its own
    order among them. Normalisers other than identity replace whole grapheme clusters in tokenizers, and drop what the
    rule does not name: marks of decomposed text.

    Raises:
        DataError: the model is of a kind that tokenizers has no counterpart for.
    """
    proto = read_sentencepiece(path)
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type not in (_UNIGRAM, _BPE):
        raise DataError(f"{path}: only BPE and unigram SentencePiece models can be written for Hugging Face")
    if any(piece.type == _UNUSED for index, piece in enumerate(proto.pieces) if index not in more_tokens.values()):
        raise DataError(f"{path}: has unused pieces, which SentencePiece splits again and the tokenizers library can't")
    _add_pieces(proto, more_tokens)
    tokenizer = Tokenizer(_unigram(proto) if trainer.model_type == _UNIGRAM else _bpe(proto))
    steps: list[Any] = []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        # Not Strip, which also takes tabs and line ends.
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if rules.add_dummy_prefix:
        # Not Metaspace, which adds no prefix to text that starts with a space. The price is Llama's well-known one: the
        # text after a special token in the middle gets a prefix too, which SentencePiece would not give it.
        steps.append(normalizers.Prepend(_SPACE))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    decoding: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if rules.add_dummy_prefix:
        decoding.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(decoding)
    for piece in proto.pieces:
        if piece.type == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(piece.piece, normalized=False, special=True)])
        elif piece.type == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(piece.piece, normalized=False, special=False)])
    return tokenizer


def _add_pieces(proto: Any, tokens: Mapping[str, int]) -> None:
    """Make tokens control pieces: in place of a piece, or behind all of them with unused ones in between."""
    for text, index in tokens.items():
        for unused in range(len(proto.pieces), index + 1):
            proto.pieces.add(piece=f"<unused piece {unused}>", score=0.0, type=_UNUSED)
        proto.pieces[index].piece, proto.pieces[index].type = text, _CONTROL


def _unigram(proto: Any) -> models.Unigram:
    """Build a unigram model: pieces with their log probabilities."""
    # tokenizers also finds the names of bytes in a text, such as <0x0A>, unless any other cut is likelier.
    vocabulary = [(piece.piece, piece.score if piece.type != _BYTE else _NEVER) for piece in proto.pieces]
    return models.Unigram(vocabulary, proto.trainer_spec.unk_id, proto.trainer_spec.byte_fallback)


def _bpe(proto: Any) -> models.BPE:
    """Build a BPE model: every way to join two pieces into a third is a merge, best score first.

    SentencePiece stores no merges: it joins whichever neighbours make the piece of the best score.
    """
    ids = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    joins: list[tuple[float, int, str, str]] = []
    for index, piece in enumerate(proto.pieces):
        text = piece.piece
        if piece.type != _NORMAL:
            continue
        cuts = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        joins.extend((-piece.score, index, left, right) for left, right in cuts if left in ids and right in ids)
    joins.sort(key=lambda join: join[:2])
    return models.BPE(
        vocab=ids,
        merges=[(left, right) for _, _, left, right in joins],
        unk_token=proto.trainer_spec.unk_piece,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )
