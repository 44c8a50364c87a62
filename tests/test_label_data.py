"""Labels of texts and of words: read from files, kept in the store beside the tokens of each word."""

import json

import numpy as np
import pytest
import tiny_labels
from hypothesis import given
from hypothesis import strategies as st

from lm_jax.data import corpora, nltk_corpus, pipeline
from lm_jax.data.documents import Document, Fields, pieces
from lm_jax.data.pipeline import DataConfig
from lm_jax.data.universal_tags import universal
from lm_jax.errors import UserError
from lm_jax.tasks.classification import Classification, Regression
from lm_jax.tasks.tagging import Tagging
from lm_jax.text.simple import ByteTokenizer, WordTokenizer
from lm_jax.text.words import first_tokens, word_spans

TEXTS = st.text(st.sampled_from("aé \n\u00a0.𝄞"), max_size=12)


@given(TEXTS)
def test_word_spans_are_the_words(text):
    data = text.encode()
    assert [data[a:b] for a, b in word_spans(data)] == data.split()


@given(TEXTS, st.integers(0, 3))
def test_the_first_token_of_a_word_is_the_first_that_begins_in_it(text, merged):
    """Tokens of one byte each, of which each space is merged with up to `merged` bytes after it."""
    data, spans = text.encode(), []
    while (start := spans[-1][1] if spans else 0) < len(data):
        spans.append((start, min(len(data), start + 1 + merged * (data[start : start + 1] in b" \n"))))
    wanted = []
    for first, end in word_spans(data).tolist():
        begins = [next((i for i in range(a, b) if not data[i : i + 1].isspace()), -1) for a, b in spans]
        wanted.append(next((t for t, begin in enumerate(begins) if first <= begin < end), -1))
    assert first_tokens(data, np.array(spans, int).reshape(-1, 2)).tolist() == wanted


def test_a_word_that_a_tokenizer_drops_has_no_token():
    encoding = WordTokenizer(["a", "b"]).encode("a ? b")
    assert first_tokens(b"a ? b", encoding.spans).tolist() == [0, 1, 2]
    assert first_tokens(b"a ? b", encoding.spans[[0, 2]]).tolist() == [0, -1, 1]
    assert ByteTokenizer().encode("").spans.shape == (0, 2)
    assert first_tokens(b"", np.empty((0, 2), int)).tolist() == []


def test_pieces_have_the_values_of_their_words():
    document = Document("f", "a b\nc\n\nd", {"tags": ["A", "B", "C", "D"], "authors": ["x"], "label": "l"})
    assert list(pieces(document, "line")) == [
        ("f:1", "a b\n", {"tags": ["A", "B"], "authors": ["x"], "label": "l"}),
        ("f:2", "c\n", {"tags": ["C"], "authors": ["x"], "label": "l"}),
        ("f:3", "\n", {"tags": [], "authors": ["x"], "label": "l"}),
        ("f:4", "d", {"tags": ["D"], "authors": ["x"], "label": "l"}),
    ]
    assert list(pieces(document, "file")) == [document]


def test_conll_columns(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("-DOCSTART- -X- O\n\nU.N. NNP B-ORG\nofficial NN O\n\n\nB\u00a0c NN O\n")
    assert list(corpora.read(f"conll:{path}")) == [
        ("a.conll:3", "U.N. official", {"tags": ["B-ORG", "O"]}),
        ("a.conll:7", "B\u00a0c", {"tags": ["O"]}),
    ]
    assert [d.fields["tags"] for d in corpora.read(f"conll:{path}#2")] == [["NNP", "NN"], ["NN"]]


def test_lines_that_begin_with_a_label(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("1 a  good\tfilm \n\n__label__neg bad\n")
    assert list(corpora.read(f"labelled:{path}")) == [
        ("a.txt:1", "a  good\tfilm", {"label": "1"}),
        ("a.txt:3", "bad", {"label": "neg"}),
    ]


def test_json_lists_are_words_and_their_tags(tmp_path):
    row = {"words": ["a", "b"], "tags": ["X", 2], "nested": [["x"]], "none": [None]}
    corpus = tiny_labels.write(tmp_path / "a.jsonl", [row])
    [document] = corpora.read(f"{corpus}#words")
    assert document == ("a.jsonl:1", "a b", {"tags": ["X", 2]})
    assert document.tags("tags") == ["X", "2"]


@pytest.mark.parametrize(
    ("corpus", "content", "message"),
    [
        ("conll", "a X\nb\n", "line 2, has 1 columns where the first has 2; write a word and its tags"),
        ("conll", "a\n", "line 1, has 1 columns; write a word"),
        ("conll#4", "a X\n", "line 1, has 2 columns; write a word"),
        ("conll#word", "a X\n", "name the column of the tag by its number, from 2 on"),
        ("labelled", "pos\n", "line 1, has one word; write a label, a space and a text"),
        ("labelled#2", "pos a\n", "names a column; type labelled:GLOB"),
        ("jsonl#words", '{"words": ["a b"]}\n', "has the word 'a b'; write words without white space"),
    ],
)
def test_files_of_another_form_raise_user_error(tmp_path, corpus, content, message):
    kind, mark, column = corpus.partition("#")
    (tmp_path / "f").write_text(content)
    with pytest.raises(UserError, match=message):
        list(corpora.read(f"{kind}:{tmp_path / 'f'}{mark}{column}"))


def test_the_files_and_tags_of_an_nltk_corpus_are_part_of_its_name():
    assert nltk_corpus.parse("brown@c[ab]*#universal") == ("brown", "c[ab]*", "universal")
    assert (
        corpora.with_kind("@test.txt", "nltk:conll2000@train.txt#chunks") == "nltk:conll2000@test.txt#chunks"
    )
    with pytest.raises(UserError, match=r"type nltk:NAME.*tags or universal or chunks"):
        corpora.check("nltk:brown#pos", "file")


def test_universal_tags():
    brown = {"NP$-TL": "NOUN", "BEDZ*": "VERB", "PP$": "DET", "PP$$": "PRON", "WDT+BEZ": "DET", "*": "ADV"}
    penn = {"PRP$": "DET", "NNPS": "NOUN", "-NONE-": "X", "VBZ": "VERB", "POS": "PRT", "$": ".", "-LRB-": "."}
    others = {"FW-IN": "X", "--": ".", "CS": "CONJ", "TO": "PRT", "CD-HL": "NUM", ".-HL": "."}
    for tag, wanted in (brown | penn | others).items():
        assert universal(tag) == wanted, tag


@pytest.mark.slow
def test_tagged_corpora_of_nltk(shared, monkeypatch):
    from test_nltk_corpus import use

    use(monkeypatch, shared / "data/nltk_data")
    corpus = corpora.read("nltk:brown@ca01#universal", "line")
    first = next(iter(corpus))
    assert first.tags("tags")[:5] == ["DET", "NOUN", "NOUN", "ADJ", "NOUN"]
    assert sum(len(document.tags("tags")) for document in corpus) == 2242
    [chunks] = corpora.read("nltk:conll2000@test.txt#chunks")
    assert chunks.tags("tags").count("B-NP") == 12422  # noun phrases of the test part of CoNLL 2000
    for spec, message in {
        "nltk:movie_reviews#tags": "has no tags",
        "nltk:brown#chunks": "has no chunks",
        "nltk:brown@zz*": r"has no file zz\* \(it has ca01, ",
    }.items():
        with pytest.raises(UserError, match=message):
            corpora.read(spec)


@pytest.fixture
def config(tmp_path):
    """A small corpus of tagged sentences."""
    corpus = tiny_labels.write(tmp_path / "r.jsonl", tiny_labels.records(30))
    return DataConfig(corpus=corpus, split="tail:0.3", tokenizer="byte")


def test_the_store_keeps_the_class_and_the_first_token_of_each_word(config, tmp_path):
    data = pipeline.prepare(config, Fields(tags=("tags",)), tmp_path / "cache")
    assert data.classes == {"tags": ["B-OBJ", "B-PER", "I-OBJ", "O"]}
    for split in data.splits.values():
        tags = split.tags("tags")
        for i, document in enumerate(split.documents()):
            words = slice(tags.offsets[i], tags.offsets[i + 1])
            names = [split.label_names("tags")[k] for k in tags.classes[words]]
            assert names == document.fields["tags"]
            begins = [document.text.index(word) for word in document.text.split()[:3]]
            assert tags.places[words].tolist()[:3] == begins  # a token is a byte
        assert len(tags.classes) == len(tags.places) == tags.offsets[-1]
    assert json.loads(json.dumps(data.provenance)) == data.provenance


@pytest.mark.parametrize(
    ("change", "task", "message"),
    [
        ({"tags": ["O"]}, Tagging(), "r.jsonl:30 has 1 labels in the field 'tags' for 4 words; give one for"),
        ({"tags": "O"}, Tagging(), "r.jsonl:30 has no list of labels in the field 'tags', but 'O'"),
        ({"tags": ["O"] * 3 + [""]}, Tagging(), "r.jsonl:30 has no list of labels"),
        ({"tags": ["O"] * 3 + ["Z"]}, Tagging(), "r.jsonl:30 of the valid part has the label 'Z'"),
        ({"label": "new"}, Classification(), "r.jsonl:30 of the valid part has the label 'new'"),
        ({"label": ""}, Classification(), "r.jsonl:30 has no label in the field 'label'"),
        ({"label": ["a"]}, Classification(), "r.jsonl:30 has no label in the field 'label'"),
        ({"text": " "}, Classification(), "r.jsonl:30 has an empty text; write one"),
        ({"text": ""}, Classification(), "r.jsonl:30 has an empty text; write one"),
        ({}, Classification(label="class"), "r.jsonl:1 has no field 'class'"),
        ({}, Classification(second="other"), "r.jsonl:1 has no field 'other'"),
        ({}, Regression(), "r.jsonl:1 has no finite number in the field 'label', but 'bad'"),
        ({}, Classification(label="score"), "'score' are numbers, such as 1.5; set task=regression"),
        ({}, Classification(class_weights="1,2,3"), "has 3 numbers for 2 classes; give one for each of bad"),
        (
            {},
            Classification(classes=("a", "b")),
            "task.classes=a,b, but the training documents have bad,good",
        ),
        ({}, Classification(label="one"), "all training documents have the label 'x' in the field 'one'"),
        ({}, Tagging(label="ones"), "all training documents have the label 'x' in the field 'ones'"),
    ],
)
def test_wrong_labels_raise_user_error(config, tmp_path, change, task, message):
    rows = [row | {"one": "x", "ones": ["x"] * 4} for row in tiny_labels.records(30)]
    tiny_labels.write(tmp_path / "r.jsonl", [*rows[:-1], rows[-1] | change])
    with pytest.raises(UserError, match=message):
        task.resolved(pipeline.prepare(config, task.fields(), tmp_path / "cache").classes)
