"""Fixed texts on which a stand-in for a tokenizer must give the same ids: a faster encoder, an exported folder.

They hold what libraries disagree about: composed, decomposed and compatibility forms, marks in every order, white
space, controls, unassigned and rare characters of all scripts. A sample of a corpus would prove nothing about its rest.
"""

import random
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain

from megatron_prealign.text.tokenizer import Tokenizer

_TEXTS = (
    "",
    " ",
    "\n",
    "The quick brown fox, 3.14 times! don't DON'T we'll it’S 1234567 x_y CamelCase HTTPServer don''t",
    "  two  spaces  at both ends  ",
    "\ttab\tand\nlines\r\n\n  indented\n\t\tif (a[0]->b != c):  # ok\n    return `x`\r\r\n \n",
    "\n leading line, \u3000ideographic\u00a0and\u2009thin\u202fspaces\u2028and\u2029separators\x85next\x0bvt\x0cff ",
    "Straße, naïve, cafe\u0301 \ufb01ne o\ufb03ce \uff46\uff55\uff4c\uff4c １２３ \u2460\u00b2",
    "\u00bd \u2167 \u210c \u338f \ufdfa \u2026 \u2122 \u32ff",
    # Kelvin, Ångström, Ohm; a semicolon and a grave accent that NFC turns into ASCII.
    "\u212a \u212b \u2126 a\u037eb c\u1fefd \ufa10\uf900\U0002f800",
    "\u0958\u0915\u093c \u09dc\u09a1\u09bc \u09df\u09af\u09bc",
    # Vietnamese, composed, decomposed and with marks in another order; vocalised Arabic and Hebrew as they are typed.
    "Việt Vi\u1ec7t vie\u0323\u0302t vie\u0302\u0323t ươ u\u031bo\u031b \u1e9b\u0323 a\u0315\u0300\u05ae\u0301b",
    "مُحَمَّد مُحَم\u0651\u064eد \u0622 \u0627\u0653 \ufefb ــ ש\u05c1\u05b8לום ש\u05b8\u05c1לום \ufb2a ד״ר",
    # Hangul as syllables, conjoining letters old and new, and half width; kana with sound marks, half width.
    "한국어 \u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165 \u115f\u1160\u11a2 ㅎㅏㄴ \uffa1\uffc2\uffa4 한\u11ab",
    "が か\u3099 は\u309a ｶﾞｷﾞﾊﾟﾋﾟ ｱｲｳ｡｢｣ \uff76\uff9e \u30fb\u309b\u309c 々〆ヶ ㍿ ㋿",
    "我们在银行工作。日本語のテキスト，你好！ 中文abc中文 123年 \u3007",
    "Привет, мир. й и\u0306 \u0404\u0457 Ελλάδα ΐ ι\u0308\u0301 \u0390 \u1fbf İstanbul ı i\u0307 ǅ \u0149",
    "नमस्ते क\u094d\u0937 தமிழ் \u0b95\u0bca \u0b95\u0bc6\u0bbe ಕ\u0cc6\u0cc2 \u0d4b සිංහල \u0dde বাংলা ਪੰਜਾਬੀ ગુજરાતી",
    "สวัสดี น\u0e49\u0e33 น\u0e4d\u0e49\u0e32 ກ\u0eb3 ក្រុម\u17d2\u1799 \u1021\u102d\u102f \u1025\u102e",
    "བོད་ཡིག \u0f77 \u0fb2\u0f71\u0f80 \u0f43 \u0f42\u0fb7",
    "emoji 🙂🥰👩\u200d💻🏳\ufe0f\u200d🌈👍🏽🇩🇪1\ufe0f\u20e3 \U000e0067\U000e007f",
    "zero\u200bwidth\u200c\u200d\u2060soft\u00adhy\u034fphen",
    "\ufeffmark \u200erlm\u200f \u061calm \u202abidi\u202c \u2066i\u2069 \ufff9a\ufffab\ufffb \ufffc \ufffd",
    # Private use, what is next to the surrogates, non-characters, never assigned.
    "\ue000\uf8ff\U000f0000\U0010fffd \ud7ff\ud7a4 \ufdd0 \ufffe \uffff \U0010ffff",
    "\u0378 \u2fe0 \U00030000 \U000e0080 \U00050000 \U00090000",
    # What the vocabularies themselves use.
    "▁ ▁▁ a▁b \u2581\u2581\u2581c Ġ aĠb Ċ Ã© <0x0A> <0xE2> ##ing @@ </w> ||",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6",
    "https://en.wikipedia.org/wiki/%E2%82%AC?q=1&r=[2]#s me@example.org $\\frac{1}{2}$ /usr/lib/x86_64 \\n --flag=",
)
# Lengths at which encoders change their method. Not for unigram models, which find several cuts of equal probability.
_RUNS = (
    *(sign * number for sign in " \n\t-=a0é字\u0301🙂" for number in (3, 7, 15, 16, 17, 63, 300)),
    *(" " * number + sign for sign in ("a", "字", "\n") for number in range(2, 20)),
    "ab" * 200 + "한국어" * 100 + "\u1112\u1161\u11ab" * 100 + " x" * 300,
)
_SPECIAL_TEXTS = (
    "<s> a</s> <unk>",
    "a<|endoftext|>b <|im_start|>user\n",
    "<pad><bos><eos>[UNK][CLS]",
    "<think>x</think>",
)
# Every character of small blocks would take seconds: each 13th, more of what has many blocks, few of large ideographs.
_STEPS = (
    (0x80, 0x3400, 13),
    (0x3400, 0xD800, 499),
    (0xF900, 0x10000, 31),
    (0x10000, 0x20000, 97),
    (0x20000, 0x32400, 4999),
)
_PER_TEXT = 32
_NUM_DRAWN = 64
_TOKENS_DRAWN = 24


def probe_texts(tokenizer: Tokenizer, ids: Sequence[int], has_runs: bool = True) -> Iterator[str]:
    """Yield fixed texts, and texts decoded from seeded draws of `ids`.

    Args:
        tokenizer: The tokenizer that is replaced.
        ids: Ids of its vocabulary to draw from.
        has_runs: Whether to include long runs of a character.
    """
    yield from _TEXTS
    yield from _SPECIAL_TEXTS
    yield from _characters()
    if has_runs:
        yield from _RUNS
    draw = random.Random(0)
    for _ in range(_NUM_DRAWN if ids else 0):
        yield tokenizer.decode(draw.choices(ids, k=_TOKENS_DRAWN))


@cache
def _characters() -> tuple[str, ...]:
    """Return texts with characters of all scripts between others: controls, all marks, one of every few others."""
    sampled = chain.from_iterable(range(*step) for step in _STEPS)
    single = [f"a{sign} {sign}1{sign}. {sign}{sign}b" for sign in map(chr, chain(range(0x20), [0x7F], sampled))]
    marks = [sign for sign in map(chr, range(0x300, 0x20000)) if unicodedata.combining(sign)]
    ordered = [f"a{sign}\u0334o\u0345{sign}" for sign in marks]
    parts = single + ordered
    return tuple(" ".join(parts[start : start + _PER_TEXT]) for start in range(0, len(parts), _PER_TEXT))
