"""Pairs of texts from two files of as many lines, and from the docstrings of Python's standard library."""

import ast
import gzip

import pytest

from lm_jax.data import corpora, pipeline, python_docs, splits
from lm_jax.data.documents import Document, Fields
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def pairs(spec):
    return [(d.name, d.text, d.fields["target"]) for d in corpora.read(spec)]


def test_lines_of_two_files_are_pairs(tmp_path):
    write(tmp_path / "a.en", "a dog\r\n\r\ntwo\tdogs \n")
    (tmp_path / "a.de.gz").write_bytes(gzip.compress(b"ein Hund\n \nzwei Hunde"))
    found = pairs(f"parallel:{tmp_path}/a.en,{tmp_path}/a.de.gz")
    assert found == [("a.en:1", "a dog", "ein Hund"), ("a.en:3", "two\tdogs ", "zwei Hunde")]
    write(tmp_path / "b.en", "b\n")
    (tmp_path / "b.de.gz").write_bytes(gzip.compress(b"B\n"))
    assert pairs(f"parallel:{tmp_path}/*.en,{tmp_path}/*.de.gz") == [*found, ("b.en:1", "b", "B")]


def test_a_path_may_have_a_comma(tmp_path):
    for name in ("a,b", "c"):
        write(tmp_path / name, f"text of {name}\n")
    assert pairs(f"parallel:{tmp_path}/a,b,{tmp_path}/c") == [("a,b:1", "text of a,b", "text of c")]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("a\nb\n", "a\n", "has 2 lines, and .*target has 1; give two files"),
        ("a\nb\n", "a\n \n", "target, line 2, is empty, and its line in .*source is not"),
        ("\nb\n", "a\nb\n", "source, line 1, is empty"),
        ("", "", "holds no text"),
    ],
)
def test_files_that_do_not_fit_raise_user_error(source, target, message, tmp_path):
    write(tmp_path / "source", source)
    write(tmp_path / "target", target)
    with pytest.raises(UserError, match=message):
        pairs(f"parallel:{tmp_path}/source,{tmp_path}/target")


def test_specs_that_name_no_two_files_raise_user_error(tmp_path):
    write(tmp_path / "a", "a\n")
    for rest in ("", "a", "a,", ",a", "a,b,c"):
        with pytest.raises(UserError, match="parallel:"):
            corpora.read(f"parallel:{rest}")
    with pytest.raises(UserError, match="no file"):
        corpora.read(f"parallel:{tmp_path}/a,{tmp_path}/b")
    write(tmp_path / "b", "b\n")
    with pytest.raises(UserError, match=r"2 files .* and 1 files"):
        corpora.read(f"parallel:{tmp_path}/*,{tmp_path}/b")


def test_validation_and_test_may_be_other_files_of_the_same_kind(tmp_path):
    for part in ("train", "valid"):
        for side in ("en", "de"):
            write(tmp_path / f"{part}.{side}", "".join(f"{part} {side} {i}\n" for i in range(3)))
    paths = [f"{tmp_path}/{part}.en,{tmp_path}/{part}.de" for part in ("train", "valid")]
    config = DataConfig(f"parallel:{paths[0]}", split="tail:0", valid=paths[1], tokenizer="byte")
    found = pipeline.prepare(config, Fields(texts=("target",)))
    documents = [(d.text, d.fields["target"]) for d in found.splits["valid"].documents()]
    assert documents == [(f"valid en {i}", f"valid de {i}") for i in range(3)]
    write(tmp_path / "valid.de", "other\n" * 3)
    again = pipeline.prepare(config, Fields(texts=("target",)))
    assert next(again.splits["valid"].documents()).fields == {"target": "other"}, "both files are in the key"


MODULE = '''
"""What the module does.

More about it.
"""

class C:
    """One line."""

    def f(self):
        """What f does.

        First paragraph.

            indented

        Last.   
        """

    def g(self):
        """What f does.

        First paragraph.

            indented

        Last.
        """

def h():
    """A first line
    that goes on.

    Body.
    """
'''  # noqa: W291


def test_docstrings_are_first_lines_and_bodies(tmp_path):
    path = write(tmp_path / "module.py", MODULE)
    found = list(python_docs.docstrings(path, "package.module"))
    assert [(d.name, d.text, d.fields) for d in found] == [
        ("package.module:", "More about it.", {"target": "What the module does."}),
        ("package.module:C.f", "First paragraph.\n\n    indented\n\nLast.", {"target": "What f does."}),
    ]
    assert not list(python_docs.docstrings(write(tmp_path / "no.py", "def f(:"), "no"))


def test_docstrings_are_held_out_with_their_modules():
    documents = corpora.read("python-docstrings")
    assert sum(1 for _ in documents) > 1000
    assert all(d.text.strip() and "\n" not in d.fields["target"] for d in documents)
    root = python_docs.root()
    heapq = next(d for d in documents if d.name == "heapq:merge")
    docstring = next(
        ast.get_docstring(node)
        for node in ast.parse((root / "heapq.py").read_text()).body
        if getattr(node, "name", "") == "merge"
    )
    assert docstring.startswith(heapq.fields["target"] + "\n\n")
    assert heapq.text in docstring
    holdout = splits.parse("hash:0.05,0.05")
    names = [Document(file.name, "") for file in corpora.read("python-docs").files]
    modules = {d.name: part for part, d in splits.assign(holdout, names)}
    for part, document in splits.assign(holdout, documents, units=documents.units()):
        assert modules[document.name.partition(":")[0]] == part
