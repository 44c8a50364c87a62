"""Words by their characters, as published ELMos read them: the bytes of a word's UTF-8 between marks.

Peters et al. 2018, and the code of bilm-tf (`data.py`) and AllenNLP (`elmo_indexer.py`): characters' numbers
are bytes plus 1, and further ones for marks; 0 is no character at all, as in words of padding.
"""

from collections.abc import Sequence

import numpy as np

SLOTS = 50  # characters of a word, its marks among them, as published
NUM_CHARACTERS = 262
_BEGIN_TEXT, _END_TEXT, _BEGIN_WORD, _END_WORD, _FILL = range(257, 262)


def spell(words: Sequence[bytes], slots: int = SLOTS) -> np.ndarray:
    """The characters of words, int32 [N, slots]: a mark, the bytes, a mark, and filling.

    Of a word of more than `slots` - 2 bytes the first ones are read, as published.
    """
    room = slots - 2
    sizes_N = np.array([len(word) for word in words], np.int64)
    starts_N = np.cumsum(sizes_N) - sizes_N
    data = np.frombuffer(b"".join(words) + bytes(room), np.uint8)
    sizes_N = np.minimum(sizes_N, room)
    places_1C = np.arange(room)[None]
    bytes_NC = data[starts_N[:, None] + places_1C].astype(np.int32)
    rows_NC = np.full((len(words), slots), _FILL, np.int32)
    rows_NC[:, 0] = _BEGIN_WORD
    rows_NC[:, 1:-1] = np.where(places_1C < sizes_N[:, None], bytes_NC + 1, _FILL)
    rows_NC[np.arange(len(words)), sizes_N + 1] = _END_WORD
    return rows_NC


def spell_marks(slots: int = SLOTS) -> tuple[np.ndarray, np.ndarray]:
    """The characters of the words that stand before and after a sentence, int32 [slots] each."""
    before, after = np.full((2, slots), _FILL, np.int32)
    before[:3] = _BEGIN_WORD, _BEGIN_TEXT, _END_WORD
    after[:3] = _BEGIN_WORD, _END_TEXT, _END_WORD
    return before, after


def spell_vocabulary(token_bytes: Sequence[bytes], slots: int = SLOTS) -> np.ndarray:
    """The characters of the tokens of a word tokenizer, int32 [V, slots].

    The token that ends sentences and documents, a newline, is the word that stands after a sentence.
    """
    rows_VC = spell(token_bytes, slots)
    for i, word in enumerate(token_bytes):
        if word == b"\n":
            rows_VC[i] = spell_marks(slots)[1]
    return rows_VC
