"""N-grams of all orders as a tree: the children of an n-gram are adjacent, sorted by their last word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Trie(NamedTuple):
    """The n-grams of orders 1 to `order`, in prefix order at every order; an n-gram's id is its index there.

    Attributes:
        words: by order (index n - 1), the int32 last word of each n-gram. The unigrams are 0, 1, 2, ...
        first_child: by order but the last, int32 [number of n-grams + 1]: the (n+1)-grams that begin with
            n-gram i are those from `first_child[i]` up to `first_child[i + 1]`.
    """

    words: list[np.ndarray]
    first_child: list[np.ndarray]

    @property
    def order(self) -> int:
        """The number of words in the longest n-grams."""
        return len(self.words)

    def beginning_with(self, word: int, order: int) -> slice:
        """The n-grams of an order whose first word is the given one."""
        low, end = word, word + 1
        for first_child in self.first_child[: order - 1]:
            low, end = int(first_child[low]), int(first_child[end])
        return slice(low, end)

    def find(self, order: int, contexts: np.ndarray, words: np.ndarray) -> np.ndarray:
        """The ids of n-grams by binary search.

        Args:
            order: of the n-grams to find, 2 or more.
            contexts: ids of their prefixes, of order - 1.
            words: their last words, as many.

        Returns:
            int64 ids, -1 where there is no such n-gram.
        """
        last_words, first_child = self.words[order - 1], self.first_child[order - 2]
        low, end = first_child[contexts].astype(np.int64), first_child[contexts + 1].astype(np.int64)
        high = end.copy()
        while len(rows := np.flatnonzero(low < high)):
            middle = (low[rows] + high[rows]) >> 1
            is_before = last_words[middle] < words[rows]
            low[rows[is_before]] = middle[is_before] + 1
            high[rows[~is_before]] = middle[~is_before]
        rows = np.flatnonzero(low < end)
        rows = rows[last_words[low[rows]] == words[rows]]
        found = np.full(len(low), -1)
        found[rows] = low[rows]
        return found

    def suffixes(self, words: np.ndarray) -> list[int]:
        """The ids of the n-grams that end a sequence of words: the last word, the last two, and so on.

        The list ends with the longest one in the tree, of order `order` at most.
        """
        ids: list[int] = []
        for order in range(1, min(self.order, len(words)) + 1):
            node = int(words[-order])
            for depth, word in enumerate(words[len(words) - order + 1 :], 2):
                low, high = self.first_child[depth - 2][node : node + 2]
                children = self.words[depth - 1][low:high]
                at = int(np.searchsorted(children, children.dtype.type(word)))
                if at == len(children) or children[at] != word:
                    return ids
                node = int(low) + at
            ids.append(node)
        return ids


def pieces(starts: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Cuts consecutive groups into pieces of at most `most` members, but of at least one group.

    Args:
        starts: the first member of each group, and the number of members at the end.
        most: the maximum number of members of a piece of several groups.

    Yields:
        The first group of a piece and the one after its last.
    """
    first = 0
    while first < len(starts) - 1:
        # Of the array's own type, as searchsorted would convert the whole array.
        limit = starts.dtype.type(min(int(starts[first]) + most, int(starts[-1])))
        end = max(int(np.searchsorted(starts, limit, "right")) - 1, first + 1)
        yield first, end
        first = end
