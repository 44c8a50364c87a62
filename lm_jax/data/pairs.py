"""Pairs of segments for BERT's and ALBERT's second task: is B what follows A?

Next-sentence pairs are those of Devlin et al. 2019, appendix A.2, and of `create_pretraining_data.py` of
their code; sentence-order pairs are those of ALBERT (Lan et al. 2020, section 3.1).

D: documents that have tokens. N: pairs. B: rows. T: tokens in a row.
"""

import array
import bisect
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lm_jax.data.store import TokenStream
from lm_jax.errors import UserError
from lm_jax.text.base import Tokenizer

SHORTEST = 5  # [CLS] a [SEP] b [SEP]
_BLOCK = 1 << 22  # tokens


class Sentences(NamedTuple):
    """The sentences of the documents that have tokens.

    Attributes:
        edges: int64; for each document the place in the stream where each sentence begins, and where the
            last one ends.
        firsts: int64 [D]; where a document's edges begin in `edges`.
        counts: int64 [D]; the number of its sentences, one less than the number of its edges.
        documents: int64 [D]; the number of the document in the split.
    """

    edges: np.ndarray
    firsts: np.ndarray
    counts: np.ndarray
    documents: np.ndarray


class PairTable(NamedTuple):
    """The pairs of an epoch, in the order of the documents of their chunks.

    Attributes:
        starts_a: int64 [N]; the place in the stream where A begins.
        lengths_a: int32 [N]; the tokens of A.
        starts_b, lengths_b: the same of B.
        labels: int32 [N]; 0 where B follows A; 1 where it is random, or A and B are in exchanged order.
        documents: int64 [N]; the document that the pair was made from.
    """

    starts_a: np.ndarray
    lengths_a: np.ndarray
    starts_b: np.ndarray
    lengths_b: np.ndarray
    labels: np.ndarray
    documents: np.ndarray


class PairRows(NamedTuple):
    """Rows `[CLS] A [SEP] B [SEP]`, padded on the right.

    Attributes:
        tokens_BT: int32.
        segments_BT: int32; 0, and -1 at padding.
        types_BT: int32; 1 for B and the [SEP] after it, else 0.
    """

    tokens_BT: np.ndarray
    segments_BT: np.ndarray
    types_BT: np.ndarray


class _Chunks(NamedTuple):
    """Successive sentences, each chunk of one document: places in `Sentences.edges`, int64 [N].

    A is edges[first] to edges[middle]; what follows it in the chunk is edges[middle] to edges[last].
    """

    first: np.ndarray
    middle: np.ndarray
    last: np.ndarray
    is_random: np.ndarray
    targets: np.ndarray  # tokens in a pair
    documents: np.ndarray  # rows of `Sentences`


def sentence_ends(tokenizer: Tokenizer) -> np.ndarray:
    """The ids of the tokens that end with `.`, `?` or `!`, and maybe white space."""
    tokens = (tokenizer.token_bytes(token_id).rstrip() for token_id in range(tokenizer.vocab_size))
    return np.flatnonzero([token.endswith((b".", b"?", b"!")) for token in tokens])


def find_sentences(stream: TokenStream, ends: np.ndarray, length: int) -> Sentences:
    """Divides documents into sentences.

    A sentence ends after one of the tokens `ends`, the last one where several follow each other, and with
    its document. A longer sentence than a row has room for, T - 3 tokens, is divided into pieces of that.

    Args:
        stream: the documents.
        ends: token ids, see `sentence_ends`.
        length: T.

    Raises:
        UserError: rows without room for a pair.
    """
    if length < SHORTEST:
        raise UserError(
            f"data.sequence_length={length} has no room for a pair of sentences",
            f"give it {SHORTEST} or more",
        )
    documents = np.flatnonzero(stream.lengths > 0)
    begins, closes = stream.offsets[:-1][documents], stream.offsets[1:][documents] - 1
    starts = np.unique(np.concatenate([begins, *_after_ends(stream.tokens, ends)]))
    owners = np.searchsorted(begins, starts, side="right") - 1
    is_inside = (owners >= 0) & (starts < closes[owners])
    starts, owners = starts[is_inside], owners[is_inside]
    sizes = np.minimum(np.append(starts[1:], stream.offsets[-1]), closes[owners]) - starts
    pieces = -(-sizes // (length - 3))
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(starts, pieces) + number * (length - 3)
    counts = np.bincount(np.repeat(owners, pieces), minlength=len(documents))
    last = np.cumsum(counts)
    return Sentences(
        np.insert(starts, last, closes), last - counts + np.arange(len(counts)), counts, documents
    )


def next_sentence_pairs(
    sentences: Sentences, length: int, seed: int, epoch: int, short_share: float = 0.1
) -> PairTable:
    """The pairs of an epoch, a pure function of the seed and the epoch.

    Each document is read in chunks: sentences until they have as many tokens as the document's target, T - 3,
    or with the probability `short_share` a random number from 2 to that. A chunk is divided after a random
    sentence into A and what follows. B is what follows, or with probability ½, and where the chunk is one
    sentence, sentences of another document from a random one on, until A and B have as many tokens as the
    target; the sentences that follow A are then read again. The longer one of A and B loses tokens until both
    fit into T - 3, each at its front or its back with probability ½.

    Raises:
        UserError: a single document, which has no other one for a random B.
    """
    if len(sentences.documents) < 2:
        raise UserError(
            f"next-sentence pairs need two documents or more, and there are {len(sentences.documents)}",
            "let documents be smaller (data.documents=paragraph or line), or use sentence-order pairs",
        )
    random, edges = np.random.default_rng([seed, epoch]), sentences.edges
    chunks = _cut_chunks(sentences, length, random, short_share, random_share=0.5)
    others = random.integers(len(sentences.documents) - 1, size=len(chunks.first))
    others += others >= chunks.documents
    from_other = random.integers(sentences.counts[others]) + sentences.firsts[others]
    wanted = chunks.targets - (edges[chunks.middle] - edges[chunks.first])
    until = np.searchsorted(edges, edges[from_other] + np.maximum(wanted, 1))
    until = np.minimum(until, sentences.firsts[others] + sentences.counts[others])
    first_b = edges[np.where(chunks.is_random, from_other, chunks.middle)]
    end_b = edges[np.where(chunks.is_random, until, chunks.last)]
    a, b = (edges[chunks.first], edges[chunks.middle]), (first_b, end_b)
    return _table(a, b, chunks.is_random, sentences.documents[chunks.documents], length - 3, random)


def sentence_order_pairs(
    sentences: Sentences, length: int, seed: int, epoch: int, short_share: float = 0.1
) -> PairTable:
    """The pairs of an epoch: two consecutive segments, with probability ½ in exchanged order.

    Chunks are those of `next_sentence_pairs`, and each is followed by the next. One of a single sentence is
    divided after a random token; of a single token, it makes no pair.
    """
    random, edges = np.random.default_rng([seed, epoch]), sentences.edges
    chunks = _cut_chunks(sentences, length, random, short_share, random_share=0.0)
    start, end = edges[chunks.first], edges[chunks.last]
    inside = start + 1 + random.integers(np.maximum(end - start - 1, 1))
    middle = np.where(chunks.last - chunks.first > 1, edges[chunks.middle], inside)
    is_pair = end - start > 1
    start, middle, end = start[is_pair], middle[is_pair], end[is_pair]
    swapped = random.random(len(start)) < 0.5
    a = np.where(swapped, middle, start), np.where(swapped, end, middle)
    b = np.where(swapped, start, middle), np.where(swapped, middle, end)
    documents = sentences.documents[chunks.documents[is_pair]]
    return _table(a, b, swapped, documents, length - 3, random)


def read_pairs(
    table: PairTable,
    rows: np.ndarray,
    tokens: np.ndarray,
    length: int,
    cls_id: int,
    sep_id: int,
    pad_id: int = 0,
) -> PairRows:
    """Rows of a table.

    Args:
        table: of the epoch.
        rows: int [B]; places in the table.
        tokens: the stream that the table was made from.
        length: T of the table, or more.
        cls_id: the token before A.
        sep_id: the token after A, and after B.
        pad_id: the token of padding.
    """
    sep_B = table.lengths_a[rows, None] + 1
    end_B = sep_B + table.lengths_b[rows, None] + 1
    places_T = np.arange(length, dtype=np.int32)
    is_b_BT, is_padding_BT = places_T > sep_B, places_T > end_B
    offsets_BT = np.where(is_b_BT, table.starts_b[rows, None] - sep_B - 1, table.starts_a[rows, None] - 1)
    tokens_BT = tokens.take(offsets_BT + places_T, mode="clip").astype(np.int32)
    tokens_BT[:, 0] = cls_id
    np.put_along_axis(tokens_BT, np.concatenate([sep_B, end_B], axis=1), sep_id, axis=1)
    tokens_BT[is_padding_BT] = pad_id
    return PairRows(tokens_BT, -is_padding_BT.astype(np.int32), (is_b_BT & ~is_padding_BT).astype(np.int32))


def _after_ends(tokens: np.ndarray, ends: np.ndarray) -> Iterator[np.ndarray]:
    """The places after the tokens that end a sentence, a block of the stream at a time."""
    for first in range(0, len(tokens) - 1, _BLOCK):
        is_end = np.isin(tokens[first : first + _BLOCK + 1], ends)
        yield np.flatnonzero(is_end[:-1] & ~is_end[1:]) + first + 1


def _cut_chunks(
    sentences: Sentences, length: int, random: np.random.Generator, short_share: float, random_share: float
) -> _Chunks:
    """Reads each document in chunks; `random_share` 0: none has a random B."""
    num_documents = len(sentences.documents)
    is_short = random.random(num_documents) < short_share
    short = random.integers(2, length - 3, size=num_documents, endpoint=True)
    targets = np.where(is_short, short, length - 3)
    uniform = _uniform(random)
    chunks, found = array.array("q"), array.array("q")  # 8 bytes a number
    for begin, count, target in zip(sentences.firsts.tolist(), sentences.counts.tolist(), targets.tolist()):
        edges, start = sentences.edges[begin : begin + count + 1].tolist(), 0
        while start < count:
            end = bisect.bisect_left(edges, edges[start] + target, start + 1, count)
            middle = start + 1 + int(next(uniform) * (end - start - 1))
            rereads = random_share > 0 and (end - start == 1 or next(uniform) < random_share)
            chunks.extend((begin + start, begin + middle, begin + end, rereads))
            start = middle if rereads else end
        found.append(len(chunks) // 4)
    first_N, middle_N, last_N, rereads_N = np.array(chunks, np.int64).reshape(-1, 4).T
    documents = np.repeat(np.arange(num_documents), np.diff(found, prepend=0))
    return _Chunks(first_N, middle_N, last_N, rereads_N > 0, targets[documents], documents)


def _uniform(random: np.random.Generator) -> Iterator[float]:
    while True:
        yield from random.random(4096).tolist()


def _table(
    a: tuple[np.ndarray, np.ndarray],
    b: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    documents: np.ndarray,
    room: int,
    random: np.random.Generator,
) -> PairTable:
    """Pairs of segments (start, end), truncated to `room` tokens."""
    (start_a, end_a), (start_b, end_b) = a, b
    length_a, length_b = end_a - start_a, end_b - start_b
    excess = np.maximum(length_a + length_b - room, 0)
    # The longer one loses a token at a time, so both in turn from where they are equal; B does first.
    from_longer = np.minimum(excess, np.abs(length_a - length_b))
    less_a = np.where(length_a > length_b, from_longer, 0) + (excess - from_longer) // 2
    less_b = excess - less_a
    start_a, start_b = start_a + random.binomial(less_a, 0.5), start_b + random.binomial(less_b, 0.5)
    lengths = (length_a - less_a).astype(np.int32), (length_b - less_b).astype(np.int32)
    return PairTable(start_a, lengths[0], start_b, lengths[1], labels.astype(np.int32), documents)
