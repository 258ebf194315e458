"""Which source forms of a lexicon are of several atoms, and a quick answer to where none of them can begin."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint32(0x9E3779B1), np.uint32(0x85EBCA77))
_PLACES_PER_PAIR = 16


@dataclass(frozen=True)
class Phrases:
    """A Bloom filter over the first tokens of the first two atoms."""

    sizes: NDArray[np.int64]
    """The numbers of atoms that there are, from 2 on, rising."""
    places: NDArray[np.bool_]
    """Whether some phrase begins with a pair of tokens that falls here: [a power of two]."""

    @classmethod
    def of(cls, sizes: NDArray[np.int64], firsts: NDArray[Any], seconds: NDArray[Any]) -> Self:
        """Take the phrases.

        Args:
            sizes: int64 [P], atoms of each, at least 2.
            firsts: int [P], first token of the first atom.
            seconds: int [P], first token of the second atom.
        """
        places = np.zeros(1 << (_PLACES_PER_PAIR * len(sizes)).bit_length(), dtype=bool)
        phrases = cls(np.unique(sizes).astype(np.int64), places)
        places[phrases._places_of(firsts, seconds)] = True
        return phrases

    def may_begin(self, firsts: NDArray[Any], seconds: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell where a phrase may begin, by the first tokens of two atoms: bool [N]; False is sure."""
        found: NDArray[np.bool_] = self.places[self._places_of(firsts, seconds)]
        return found

    def _places_of(self, firsts: NDArray[Any], seconds: NDArray[Any]) -> NDArray[np.uint32]:
        mixed = firsts.astype(np.uint32) * _MULTIPLIERS[0] ^ seconds.astype(np.uint32) * _MULTIPLIERS[1]
        # The high bits are the well-mixed ones of a product.
        return mixed >> np.uint32(33 - len(self.places).bit_length())
