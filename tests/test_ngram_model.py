"""Scores, perplexities, samples and files of n-gram models, against KenLM's `query` and published numbers."""

import re
import zipfile

import numpy as np
import pytest
from ngram_text import count, encode, mark, perplexity

from lm_jax.errors import UserError
from lm_jax.ngram import arpa, counts, query
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.smoothing import NGramConfig, estimate
from lm_jax.ngram.vocabulary import BOS, EOS, UNK, Vocabulary

QUERIED = {
    "o4": NGramConfig(order=4),
    "o3_prune012": NGramConfig(order=3, prune=(0, 1, 2)),
    "o2_nointerp": NGramConfig(order=2, interpolate_unigrams=False),
}
TEXT = b"the cat sat on the mat\nthe dog sat\na cat on a mat\n\nthe mat\n" * 2


@pytest.fixture(scope="module")
def model() -> NGramModel:
    return estimate(count(TEXT, 3), NGramConfig(order=3, smoothing="witten_bell"))


@pytest.mark.parametrize("source", ["estimated", "read"])
@pytest.mark.parametrize("name", QUERIED)
def test_scores_are_those_of_query(shared, name, source):
    folder = shared / "fixtures/kenlm"
    if source == "read":
        model = arpa.read(folder / f"{name}.arpa.gz")
    else:
        model = estimate(count((folder / "train.txt").read_bytes(), QUERIED[name].order), QUERIED[name])
    printed = (folder / f"{name}.query.txt").read_text()
    words = re.findall(r"=(\d+) (\d) (\S+)\t", printed)  # word=id order log10
    stream = encode(model.vocabulary, (folder / "test.txt").read_bytes())
    scores = model.score(stream)
    is_word = stream != BOS
    log10 = scores.log_probs[is_word] / np.log(10)
    np.testing.assert_allclose(log10, [float(log10) for _, _, log10 in words], rtol=0, atol=2e-6)
    assert scores.matched[is_word].tolist() == [int(order) for _, order, _ in words]
    assert (stream[is_word] == UNK).tolist() == [number == "0" for number, _, _ in words]
    with_oov, without_oov = (
        float(re.search(rf"Perplexity {kind}cluding OOVs:\t(\S+)", printed)[1]) for kind in ("in", "ex")
    )
    assert perplexity(scores.log_probs, stream) == pytest.approx(with_oov, abs=1e-4)
    assert perplexity(scores.log_probs, stream, (BOS, UNK)) == pytest.approx(without_oov, abs=1e-4)


@pytest.mark.parametrize(("order", "nats"), [(3, 2.038), (5, 1.561), (6, 1.523)])
def test_tinyshakespeare_characters(shared, order, nats):
    text = (shared / "data/tinyshakespeare.txt").read_text()
    characters = sorted(set(text))
    id_of = {character: i for i, character in enumerate(characters, 3)}
    ids = np.array([id_of[character] for character in text])
    train, test = mark(ids[:1_003_854]), mark(ids[1_003_854:])
    found = counts.count(train, Vocabulary(characters), order)
    model = estimate(found, NGramConfig(order=order, discount_fallback=(0.5, 1.0, 1.5)))
    assert np.log(perplexity(model.score(test).log_probs, test)) == pytest.approx(nats, abs=5e-4)


def brown(shared) -> list[str]:
    """The words of the Brown corpus, cased, files in the order of their names."""
    with zipfile.ZipFile(shared / "data/nltk_data/corpora/brown.zip") as archive:
        names = sorted(name for name in archive.namelist() if re.fullmatch(r"brown/c[a-r]\d\d", name))
        return [pair.rsplit("/", 1)[0] for name in names for pair in archive.read(name).decode().split()]


@pytest.mark.slow
def test_brown(shared):
    words = brown(shared)
    assert len(words) == 1_161_192
    number, times = np.unique(words, return_inverse=True, return_counts=True)[1:]
    assert np.count_nonzero(times > 3) == 17_904  # and the word that stands for all others
    kept = ["<rare>" if times[i] <= 3 else word for i, word in zip(number.tolist(), words, strict=True)]
    train, test = (" ".join(part).encode() for part in (kept[:800_000], kept[1_000_000:]))
    for order, expected in ((3, 331.8), (4, 329.6), (5, 329.0)):
        model = estimate(count(train, order), NGramConfig(order=order))
        stream = encode(model.vocabulary, test)
        assert perplexity(model.score(stream).log_probs, stream) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_scores_do_not_depend_on_pieces_and_hash_tables(monkeypatch, model, piece):
    stream = encode(model.vocabulary, TEXT + b"the bird sat on a cat mat\n")
    expected = model.score(stream)
    monkeypatch.setattr(query, "_PIECE", piece)
    monkeypatch.setattr(query, "_INDEX_FROM", 0)
    scores = NGramModel(model.vocabulary, model.trie, model.log10_probs, model.log10_backoffs).score(stream)
    for ours, theirs in zip(scores, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert set(scores.matched) == {0, 1, 2, 3}


def test_a_model_whose_highest_orders_are_all_pruned(monkeypatch):
    monkeypatch.setattr(query, "_INDEX_FROM", 0)
    config = NGramConfig(order=3, smoothing="witten_bell", prune=(0, 0, 9))
    model = estimate(count(TEXT, 3), config)
    assert len(model.log10_probs[2]) == 0
    assert model.score(encode(model.vocabulary, TEXT)).matched.max() == 2


def test_text_without_a_beginning_is_scored_without_a_history(model):
    ids = model.vocabulary.ids(["sat", "on"])
    assert model.score(ids).matched.tolist() == [1, 2]
    assert model.score(ids[:0]).log_probs.shape == (0,)


def test_a_history_longer_than_the_order_counts_with_its_end(model):
    ids = model.vocabulary.ids(["the", "dog", "sat", "on", "the"])
    np.testing.assert_array_equal(model.next_distribution([BOS, *ids]), model.next_distribution(ids[-2:]))
    np.testing.assert_array_equal(
        model.next_distribution([BOS, *ids, EOS, BOS]), model.next_distribution([BOS])
    )


@pytest.mark.parametrize(
    "config",
    [
        NGramConfig(order=1),
        NGramConfig(order=3, prune=(0, 1)),
        NGramConfig(order=3, smoothing="stupid_backoff"),
    ],
)
def test_a_saved_model_is_the_same_model(tmp_path, config):
    words = Vocabulary(["\n", " ", "é", b"\xff\xfe", ""])  # as in a vocabulary of characters or bytes
    ids = np.random.default_rng(0).integers(3, 8, 300)
    stream = mark(ids[:100], [], ids[100:])
    config = NGramConfig(**{**vars(config), "discount_fallback": (0.5, 1.0, 1.5)})
    model = estimate(counts.count(stream, words, config.order), config)
    model.save(tmp_path / "model")
    loaded = NGramModel.load(tmp_path / "model")
    assert loaded.vocabulary.words == model.vocabulary.words
    assert (loaded.order, loaded.normalised) == (model.order, model.normalised)
    np.testing.assert_array_equal(loaded.score(stream).log_probs, model.score(stream).log_probs)
    np.testing.assert_array_equal(loaded.next_distribution([BOS, 3]), model.next_distribution([BOS, 3]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_saved_model_is_a_safetensors_file(tmp_path, model):
    safetensors = pytest.importorskip("safetensors.numpy")
    model.save(tmp_path / "model.safetensors")
    arrays = safetensors.load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(arrays["log10_probs.3"], model.log10_probs[2])
    np.testing.assert_array_equal(arrays["words.2"], model.trie.words[1])


def test_files_that_are_not_models_are_refused(tmp_path, model):
    path = tmp_path / "model"
    with pytest.raises(UserError, match="cannot read"):
        NGramModel.load(path)
    model.save(path)
    whole = path.read_bytes()
    for content in (
        b"",
        b"text",
        whole[: len(whole) // 2],
        whole[:-1],
        b"\xff" * 100,
        whole.replace(b"model 1", b"model 9"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=re.escape(str(path))):
            NGramModel.load(path)


def test_ids_of_another_vocabulary_are_refused(model):
    for ids in (np.array([BOS, len(model.vocabulary), EOS]), np.array([BOS, -1, EOS])):
        with pytest.raises(UserError, match="vocabulary"):
            model.score(ids)
        with pytest.raises(UserError, match="vocabulary"):
            model.next_distribution(ids)
