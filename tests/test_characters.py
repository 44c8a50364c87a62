"""Words by their characters, against a loop."""

import numpy as np

from lm_jax.text.characters import spell, spell_marks


def published(word: bytes, slots: int = 50) -> list[int]:
    """As `elmo_indexer.py` of AllenNLP counts: marks are 256 to 260, and then 1 is added."""
    row = [260] * slots
    row[0] = 258
    for i, byte in enumerate(word[: slots - 2], start=1):
        row[i] = byte
    row[len(word[: slots - 2]) + 1] = 259
    return [number + 1 for number in row]


def test_spells_as_published():
    words = [b"a", b"", "caf\u00e9\u2022".encode(), b"x" * 48, b"y" * 49, b"z" * 200, b"New York"]
    np.testing.assert_array_equal(spell(words), [published(word) for word in words])
    np.testing.assert_array_equal(spell(words, 8), [published(word, 8) for word in words])
    assert spell([]).shape == (0, 50)
    before, after = spell_marks()
    assert before[:4].tolist() == [259, 257, 260, 261]
    assert after[:4].tolist() == [259, 258, 260, 261]
    assert len(before) == len(after) == 50
