"""Corpora of NLTK by its own readers: from the published archives, and from small ones written here."""

import time
import zipfile

import nltk
import pytest
from nltk.corpus.util import LazyCorpusLoader

from lm_jax.data import corpora, pipeline
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError

TAGGED = "\n\n\tThe/at Jury/nn-tl said/vbd ``/`` no/rb ''/'' ./.\n\n\nIt/pps 's/bez ./.\n"
PLAIN = "Öffne es.\r\n\r\nTwo  words\n"


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A directory of corpora that NLTK has not opened before."""
    write(tmp_path / "corpora/brown/ca01", TAGGED.encode())
    write(tmp_path / "corpora/brown/cb02", b"A/at b/nn\n")
    write(tmp_path / "corpora/brown/README", b"Not a text.")
    write(tmp_path / "corpora/brown/cats.txt", b"ca01 news\ncb02 editorial\n")
    write(tmp_path / "corpora/gutenberg/a.txt", PLAIN.encode("latin-1"))
    with zipfile.ZipFile(tmp_path / "corpora/abc.zip", "w") as archive:
        archive.writestr("abc/rural.txt", "naïve\n".encode())
    use(monkeypatch, tmp_path)
    return tmp_path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def use(monkeypatch, directory):
    """What NLTK_DATA does in a new process; a reader once loaded would stay where it was."""
    monkeypatch.setattr(nltk.data, "path", [str(directory)])
    for name in ("brown", "gutenberg", "abc", "movie_reviews", "treebank", "words"):
        reader = getattr(nltk.corpus, name)
        if not isinstance(reader, LazyCorpusLoader):
            reader._unload()


@pytest.mark.slow
def test_brown_has_the_published_number_of_tokens(shared, monkeypatch):
    use(monkeypatch, shared / "data/nltk_data")
    documents = list(corpora.read("nltk:brown"))
    assert (len(documents), documents[0].name) == (500, "ca01")
    assert documents[0].text.startswith(
        "The Fulton County Grand Jury said Friday an investigation of Atlanta's recent primary election"
    )
    assert sum(len(d.text.split()) for d in documents) == 1_161_192  # Bird et al. 2009, section 2.1
    assert sum(d.text.count("\n") for d in documents) == 57_340


def test_movie_reviews_are_plain_text(shared, monkeypatch):
    directory = shared / "data/nltk_data"
    use(monkeypatch, directory)
    documents = list(corpora.read("nltk:movie_reviews"))
    assert len(documents) == 2000
    with zipfile.ZipFile(directory / "corpora/movie_reviews.zip") as archive:
        for document in (documents[0], documents[-1]):
            assert document.text.encode() == archive.read(f"movie_reviews/{document.name}")
    labels = [document.label("label") for document in documents]
    assert (labels.count("neg"), labels.count("pos"), documents[0].name[:3]) == (1000, 1000, labels[0])


def test_tokens_are_separated_by_spaces_and_sentences_by_newlines(small):
    assert list(corpora.read("nltk:brown")) == [
        ("ca01", "The Jury said `` no '' .\nIt 's .\n", {"label": "news"}),
        ("cb02", "A b\n", {"label": "editorial"}),
    ]
    assert list(corpora.read("nltk:brown", "line"))[1] == ("ca01:2", "It 's .\n", {"label": "news"})


def test_a_file_of_two_categories_or_of_none_has_no_label(small):
    before = corpora.read("nltk:brown").fingerprint()
    nltk.corpus.brown._unload()
    write(small / "corpora/brown/cats.txt", b"ca01 news fiction\n")
    assert [document.fields for document in corpora.read("nltk:brown")] == [{}, {}]
    assert corpora.read("nltk:brown").fingerprint() != before


def test_plain_text_is_read_unchanged_in_its_readers_encoding(small):
    assert list(corpora.read("nltk:gutenberg")) == [("a.txt", PLAIN, {})]
    assert list(corpora.read("nltk:abc")) == [("rural.txt", "naïve\n", {})]


def test_prepare_records_its_source_and_reads_a_changed_one_again(small, tmp_path):
    config = DataConfig(corpus="nltk:brown", tokenizer="byte", split="tail:0.2")
    first = pipeline.prepare(config, cache_dir=tmp_path / "cache")
    assert first.provenance["sources"] == {"train": {"corpus": "brown", "nltk_version": nltk.__version__}}
    assert pipeline.prepare(config, cache_dir=tmp_path / "cache").provenance == first.provenance
    assert len(list((tmp_path / "cache").glob("texts-*"))) == 1
    write(small / "corpora/brown/cb02", b"B/at b/nn\n")
    assert (
        pipeline.prepare(config, cache_dir=tmp_path / "cache").provenance["sha256"]
        != first.provenance["sha256"]
    )


def test_progress_is_reported_in_bytes(small):
    told = []
    list(corpora.read("nltk:brown", progress=lambda *arguments: told.append(arguments)))
    sizes = [len(TAGGED.encode()), 10]
    assert told == [
        ("reading nltk:brown", sizes[0], sum(sizes)),
        ("reading nltk:brown", sum(sizes), sum(sizes)),
    ]


def test_a_missing_corpus_is_an_immediate_error_with_the_command(small):
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        corpora.read("nltk:movie_reviews")
    assert time.monotonic() - start < 5
    assert str(caught.value) == (
        f"NLTK's corpus movie_reviews is in none of {small}; run python -m nltk.downloader movie_reviews, "
        "or set NLTK_DATA to where corpora/movie_reviews is"
    )
    with pytest.raises(UserError, match=r"nltk\.downloader treebank,"):
        corpora.read("nltk:treebank")


def test_a_corpus_without_text_raises_user_error(small):
    write(small / "corpora/words/en", b"word\n")
    for spec, message in {
        "nltk:brwon": "NLTK has no corpus brwon; did you mean nltk:brown",
        "nltk:reader": "NLTK has no corpus reader",
        "nltk:": "no corpus 'nltk:'",
        "nltk:words": r"words has no running text \(WordListCorpusReader\); choose one of texts",
    }.items():
        with pytest.raises(UserError, match=message):
            corpora.read(spec)


def test_a_damaged_file_raises_user_error(small):
    write(small / "corpora/brown/ca01", b"\xff/at\n")
    with pytest.raises(UserError, match=r"cannot read ca01 of NLTK: 'ascii' codec .*; restore it"):
        list(corpora.read("nltk:brown"))
    corpus = corpora.read("nltk:gutenberg")
    (small / "corpora/gutenberg/a.txt").unlink()
    for read in (list, corpora.Corpus.fingerprint):
        with pytest.raises(UserError, match=r"cannot read a.txt of NLTK: .*No such file"):
            read(corpus)
    write(small / "corpora/movie_reviews.zip", b"junk")
    with pytest.raises(UserError, match=r"cannot read nltk:movie_reviews of NLTK: .*zip"):
        corpora.read("nltk:movie_reviews")
