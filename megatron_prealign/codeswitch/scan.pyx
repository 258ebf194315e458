# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The words of a language with spaces that may be switched, in one compiled pass over the tokens.

It finds what codeswitch.py finds with whole-array operations, where the rules are explained and which is used where
this module is not compiled; the tests compare the two. Legend: `T` tokens, `D` documents, `V` vocabulary, `N` words.
"""

import numpy as np

from megatron_prealign.codeswitch.token_classes import Token

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef uint16_t SPACED = Token.SPACED
cdef uint16_t LETTERS = Token.LETTERS
cdef uint16_t WORD = Token.SPACED | Token.LETTERS
cdef uint16_t LONE_SPACE = Token.LONE_SPACE
cdef uint16_t STARTS_WHITE = Token.STARTS_WHITE
cdef uint16_t ENDS_WHITE = Token.ENDS_WHITE
cdef uint16_t TAINTS = Token.TAINTS
cdef uint16_t OPENS = Token.OPENS
cdef uint16_t OPENS_OUTSIDE = Token.OPENS_OUTSIDE
cdef uint16_t CLOSES = Token.CLOSES
cdef uint16_t CLOSES_OUTSIDE = Token.CLOSES_OUTSIDE
cdef uint16_t STARTS_STICKY = Token.STARTS_STICKY
cdef uint16_t ENDS_STICKY = Token.ENDS_STICKY

# A run of text without white space.
cdef struct Chunk:
    int64_t begin
    int64_t end
    bint is_tainted

# What a token is to the source forms.
cdef enum Role:
    IS_KEY = 1
    BEGINS_KEY = 2
    ENDS_KEY = 4

# Most words of several tokens are no key. A bit for each value of the leading bits of a hash says so from the
# processor's second cache (256 kB), which the keys are too large for.
cdef enum:
    FILTER_BITS = 21


cdef inline uint64_t mix(uint64_t value) noexcept:
    """Return what draws.py's `mix` returns."""
    value += <uint64_t>0x9E3779B97F4A7C15
    value = (value ^ (value >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * <uint64_t>0x94D049BB133111EB
    return value ^ (value >> 31)


def document_sums(const int32_t[::1] tokens, const int64_t[::1] offsets):
    """Return the sums of draws.py's `document_keys`: uint64 [D].

    Args:
        tokens: [T], documents back to back.
        offsets: [D + 1], where each begins and ends.
    """
    sums = np.zeros(len(offsets) - 1, dtype=np.uint64)
    cdef uint64_t[::1] view = sums
    cdef Py_ssize_t document
    cdef int64_t place
    cdef uint64_t total
    for document in range(offsets.shape[0] - 1):
        total = 0
        for place in range(offsets[document], offsets[document + 1]):
            total += (mix(<uint64_t>(place - offsets[document])) | 1) * <uint64_t>(<int64_t>tokens[place] + 1)
        view[document] = total
    return sums


cdef class Scanner:
    """The source forms of a switch table, as memory that compiled code reads."""

    cdef const int32_t[::1] single_keys, key_tokens, buckets
    cdef const uint64_t[::1] key_hashes
    cdef const int64_t[::1] key_offsets
    cdef const uint8_t[::1] roles, may_begin, has_size, filter
    cdef int hash_shift, place_shift
    cdef int64_t longest_key, most_atoms

    def __init__(self, table):
        """Take the arrays of a SwitchTable of a language with spaces."""
        self.single_keys, self.key_tokens = table.single_keys, table.key_tokens.values
        self.key_hashes, self.key_offsets, self.buckets = table.key_hashes, table.key_tokens.offsets, table.buckets
        begins, ends = table.key_ends
        roles = (np.asarray(table.single_keys) >= 0) * IS_KEY + begins * BEGINS_KEY + ends * ENDS_KEY
        self.roles = roles.astype(np.uint8)
        self.may_begin = table.phrases.places.view(np.uint8)
        self.hash_shift = 65 - (len(table.buckets) - 1).bit_length()
        self.place_shift = 33 - len(table.phrases.places).bit_length()
        self.longest_key = table.longest_key
        self.most_atoms = max(table.phrases.sizes, default=1)
        has_size = np.zeros(self.most_atoms + 1, dtype=np.uint8)
        has_size[table.phrases.sizes] = 1
        self.has_size = has_size
        is_filled = np.zeros(1 << FILTER_BITS, dtype=np.uint8)
        is_filled[table.key_hashes >> np.uint64(64 - FILTER_BITS)] = 1
        self.filter = np.packbits(is_filled, bitorder="little")

    def scan(self, const int32_t[::1] tokens, const uint16_t[::1] flags, const int64_t[::1] offsets):
        """Return the number of words, and of those that may be switched start, stop, document, index, key: int64 [N].

        Args:
            tokens: [T], documents back to back.
            flags: [T], their classes.
            offsets: [D + 1], where each document begins and ends.
        """
        # There is room before the first word and behind the last: what looks there needs no branch.
        cdef int64_t[::1] starts = np.zeros(len(tokens) + 2, dtype=np.int64), stops = np.zeros(len(tokens) + 2, np.int64)
        cdef int64_t[::1] candidates = np.empty(len(tokens) + 1, dtype=np.int64)
        found = np.empty((5, len(tokens) + 1), dtype=np.int64)
        cdef int64_t[:, ::1] rows = found
        cdef int64_t num_atoms, num_candidates, all_atoms = 0, num_found = 0, first, end, document
        for document in range(offsets.shape[0] - 1):
            first, end = offsets[document], offsets[document + 1]
            num_atoms = find_atoms(&flags[0], first, end, &starts[0], &stops[0])
            num_candidates = self._find_candidates(&tokens[0], &starts[1], &stops[1], num_atoms, &candidates[0])
            num_found = self._match(
                &tokens[0], &flags[0], first, end, &starts[1], &stops[1], num_atoms, &candidates[0], num_candidates,
                document, rows, num_found,
            )
            all_atoms += num_atoms
        return all_atoms, *(row[:num_found].copy() for row in found)

    cdef int64_t _find_candidates(
        self, const int32_t* tokens, const int64_t* starts, const int64_t* stops, int64_t num_atoms, int64_t* candidates
    ) noexcept:
        """Write the words that may be or begin a key, by their first and last tokens; return their number.

        No branches here and in `find_atoms`: they can't be predicted, and the processor would wait at each.
        """
        cdef int64_t atom, count = 0
        cdef int32_t head
        cdef unsigned int role, is_long, begins_phrase
        for atom in range(num_atoms):
            head = tokens[starts[atom]]
            role = self.roles[head]
            is_long = stops[atom] - starts[atom] > 1
            begins_phrase = atom + 1 < num_atoms
            begins_phrase &= starts[atom + 1] == stops[atom]
            begins_phrase &= self.may_begin[self._place(head, tokens[starts[atom + 1]])]
            candidates[count] = atom
            count += (
                ((1 - is_long) & role)
                | (is_long & (role >> 1) & (self.roles[tokens[stops[atom] - 1]] >> 2))
                | begins_phrase
            ) & 1
        return count

    cdef int64_t _match(
        self,
        const int32_t* tokens,
        const uint16_t* flags,
        int64_t first,
        int64_t end,
        const int64_t* starts,
        const int64_t* stops,
        int64_t num_atoms,
        const int64_t* candidates,
        int64_t num_candidates,
        int64_t document,
        int64_t[:, ::1] found,
        int64_t num_found,
    ) noexcept:
        """Append the matches of a document to `found`, from left to right the longest; return their new number."""
        cdef int64_t number, atom, last, key, best_key, best, free = 0
        cdef Chunk chunk = Chunk(first, first, False)
        for number in range(num_candidates):
            atom = candidates[number]
            if atom < free:
                continue
            best_key = -1
            for last in range(atom, min(atom + self.most_atoms, num_atoms)):
                if last > atom and starts[last] != stops[last - 1]:
                    break
                if last == atom + 1 and not self.may_begin[self._place(tokens[starts[atom]], tokens[starts[last]])]:
                    break
                if last > atom and not self.has_size[last - atom + 1]:
                    continue
                key = self._find(tokens, starts[atom], stops[last])
                if key >= 0 and is_eligible(flags, first, end, starts[atom], stops[last], &chunk):
                    best_key, best = key, last
            if best_key >= 0:
                found[0, num_found], found[1, num_found] = starts[atom], stops[best]
                found[2, num_found], found[3, num_found], found[4, num_found] = document, atom, best_key
                num_found += 1
                free = best + 1
        return num_found

    cdef uint64_t _place(self, int32_t head, int32_t second) noexcept:
        """Return the place of `Phrases` for the first tokens of two words."""
        cdef uint32_t mixed = (<uint32_t>head * <uint32_t>0x9E3779B1) ^ (<uint32_t>second * <uint32_t>0x85EBCA77)
        return <uint64_t>mixed >> self.place_shift

    cdef int64_t _find(self, const int32_t* tokens, int64_t start, int64_t stop) noexcept:
        """Return the key with the tokens of a span; -1 if there is none."""
        cdef int64_t length = stop - start, place, key, begin
        cdef uint64_t value, bit
        if length == 1:
            return self.single_keys[tokens[start]]
        if length > self.longest_key or not self.roles[tokens[start]] & BEGINS_KEY:
            return -1
        if not self.roles[tokens[stop - 1]] & ENDS_KEY:
            return -1
        value = mix(<uint64_t><int64_t>tokens[start])
        for place in range(start + 1, stop):
            value = mix(value ^ <uint64_t><int64_t>tokens[place])
        bit = value >> (64 - FILTER_BITS)
        if not self.filter[bit >> 3] >> (bit & 7) & 1:
            return -1
        for key in range(self.buckets[value >> self.hash_shift], self.buckets[(value >> self.hash_shift) + 1]):
            begin = self.key_offsets[key]
            if self.key_hashes[key] != value or self.key_offsets[key + 1] - begin != length:
                continue
            # Equal hashes prove nothing.
            for place in range(length):
                if self.key_tokens[begin + place] != tokens[start + place]:
                    break
            else:
                return key
        return -1


cdef int64_t find_atoms(
    const uint16_t* flags, int64_t first, int64_t end, int64_t* starts, int64_t* stops
) noexcept:
    """Write where the words of a document begin and end, as words.py's `find_words`; return their number.

    The first word is at index 1 of both arrays.
    """
    cdef int64_t place, count = 0, start = 0, stop = 0
    cdef unsigned int is_word, was_word = 0, has_letters, was_space = 0, begins
    for place in range(first, end):
        is_word, has_letters = (flags[place] & WORD) != 0, (flags[place] & LETTERS) != 0
        begins = is_word & (1 - (was_word & has_letters))
        # A space that is a separate token belongs to the word.
        start = place - (has_letters & was_space) if begins else start
        stop = place + 1 if is_word else stop
        count += begins
        starts[count] = start
        stops[count] = stop
        was_word, was_space = is_word, (flags[place] & LONE_SPACE) != 0
    return count


cdef bint is_tainted(
    const uint16_t* flags, int64_t first, int64_t end, int64_t start, int64_t stop, Chunk* chunk
) noexcept:
    """Return whether the text without white space around the tokens of a span has a sign of code.

    The chunk found last is kept: spans come from left to right, so each token is looked at about once.
    """
    cdef int64_t place = start
    while place < stop:
        if place < chunk.begin or place >= chunk.end:
            chunk.begin = chunk.end = place
            while chunk.begin > first and not begins_chunk(flags, chunk.begin):
                chunk.begin -= 1
            chunk.is_tainted = False
            chunk.end = chunk.begin
            while chunk.end == chunk.begin or (chunk.end < end and not begins_chunk(flags, chunk.end)):
                chunk.is_tainted |= (flags[chunk.end] & TAINTS) != 0
                chunk.end += 1
        if chunk.is_tainted:
            return True
        place = chunk.end
    return False


cdef inline bint begins_chunk(const uint16_t* flags, int64_t place) noexcept:
    """Return whether white space is between a token and the one before."""
    return (flags[place] & STARTS_WHITE) != 0 or (flags[place - 1] & ENDS_WHITE) != 0


cdef bint is_eligible(
    const uint16_t* flags,
    int64_t first,
    int64_t end,
    int64_t start,
    int64_t stop,
    Chunk* chunk,
) noexcept:
    """Return what words.py's `find_eligible` says of a span of a document."""
    if not flags[start] & (SPACED | LONE_SPACE) and start > first and not flags[start - 1] & OPENS:
        if not flags[start - 1] & OPENS_OUTSIDE or (start - first > 1 and flags[start - 2] & ENDS_STICKY):
            return False
    if stop < end and not flags[stop] & CLOSES:
        if not flags[stop] & CLOSES_OUTSIDE or (end - stop > 1 and flags[stop + 1] & STARTS_STICKY):
            return False
    return not is_tainted(flags, first, end, start, stop, chunk)
