"""Corpora and splits: reading, cutting into documents, holding out, and errors."""

import ast
import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile
from unittest import mock

import plain
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_jax.data import corpora, python_docs, records, splits, text_files
from lm_jax.data import documents as documents_module
from lm_jax.data.documents import Document, cut
from lm_jax.errors import UserError
from lm_jax.text import words


def read(spec, documents="file"):
    """The names and texts of a corpus."""
    return [(document.name, document.text) for document in corpora.read(spec, documents)]


LINES = st.text("a b.\n\n\n \t\r\0\v\f\x85\u2028é", max_size=50) | st.text()


@given(text=LINES, documents=st.sampled_from(corpora.DOCUMENTS))
def test_a_cut_text_loses_nothing(text, documents):
    pieces = cut(text, documents)
    assert "".join(pieces) == text
    assert all(pieces)


@given(text=LINES, documents=st.sampled_from(corpora.DOCUMENTS), part=st.integers(0, 20))
def test_a_text_is_cut_in_parts_as_a_whole(text, documents, part):
    with mock.patch.object(documents_module, "_PART", part):
        assert list(documents_module.cut_lines(text.split("\n"), documents)) == cut(text, documents)


@pytest.mark.parametrize("sample", [64, 4096])
def test_lines_of_a_file_are_those_of_its_text(tmp_path, monkeypatch, sample):
    monkeypatch.setattr(text_files, "_SAMPLE", sample)
    path = tmp_path / "a"
    for text in ("", "a", "a\n", "\n\na\r\nb\rc\x85\u2028\n", "é\n" * 5000):
        for data in (
            text.encode(),
            gzip.compress(text.encode()),
            text.encode("utf-16"),
            text.encode("utf-8-sig"),
        ):
            path.write_bytes(data)
            assert list(text_files.read_lines(path)) == text_files.read_text(path).split("\n")
    good = "é\n".encode() * 4000
    for data in (
        good + b"\xff\n",
        b"\xff" + good,
        b"PK\x03\x04\xff" + good,
        b"a\0" * 100,
        gzip.compress(good)[:-9],
    ):
        path.write_bytes(data)
        with pytest.raises(UserError) as expected:
            text_files.read_text(path)
        with pytest.raises(UserError) as raised:
            list(text_files.read_lines(path))
        assert str(raised.value) == str(expected.value)


@given(text=LINES)
def test_lines_end_at_newlines_alone(text):
    assert [p.removesuffix("\n") for p in cut(text, "line")] == text.removesuffix("\n").split("\n")[
        : None if text else 0
    ]


@given(text=LINES)
def test_paragraphs_begin_after_blank_lines_alone(text):
    is_blank = [not plain.words(line.encode()) for line in text.split("\n")]
    begins = [not blank and before for blank, before in zip(is_blank, [True, *is_blank])]
    pieces = cut(text, "paragraph")
    assert len(pieces) == max(sum(begins), bool(text))
    assert sum(1 for p in pieces if plain.words(p.encode())) == sum(begins)


def test_paragraphs_include_the_blank_lines_after_them():
    text = "\n \na\nb\n\n  \n c\n\n"
    assert cut(text, "paragraph") == ["\n \na\nb\n\n  \n", " c\n\n"]


def test_text_files_are_read_unchanged_in_order_of_their_paths(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.txt").write_bytes("\ufeffé\r\nb".encode())
    (tmp_path / "b.txt").write_bytes(b"x\n\ny\n")
    (tmp_path / "empty.txt").write_bytes(b"")
    corpus = corpora.read(f"text:{tmp_path}/**/*.txt")
    assert list(corpus) == [Document("b.txt", "x\n\ny\n"), Document("deep/a.txt", "é\r\nb")]
    assert list(corpus) == list(corpus)
    lines = read(f"text:{tmp_path}/b.txt", "line")
    assert lines == [("b.txt:1", "x\n"), ("b.txt:2", "\n"), ("b.txt:3", "y\n")]


def test_a_directory_means_the_files_of_its_kind(tmp_path):
    deep = tmp_path / "[deep]"
    deep.mkdir()
    (tmp_path / "b.txt").write_text("x")
    (deep / "a.txt").write_text("y")
    (deep / "c.txt.gz").write_bytes(gzip.compress(b"z"))
    (deep / "no.md").write_text("w")
    (deep / "d.jsonl").write_text('{"body": "v"}')
    assert read(f"text:{tmp_path}") == [("[deep]/a.txt", "y"), ("[deep]/c.txt", "z"), ("b.txt", "x")]
    assert read(f"text:{deep}/") == [("a.txt", "y"), ("c.txt", "z")]
    assert read(f"jsonl:{tmp_path}#body") == [("[deep]/d.jsonl:1", "v")]


def test_a_file_may_have_a_name_that_looks_like_a_glob(tmp_path):
    (tmp_path / "a[1].txt").write_text("x")
    (tmp_path / "b#1.jsonl").write_text('{"text": "x", "body": "y"}')
    assert read(f"text:{tmp_path}/a[1].txt") == [("a[1].txt", "x")]
    assert read(f"jsonl:{tmp_path}/b#1.jsonl") == [("b#1.jsonl:1", "x")]
    assert read(f"jsonl:{tmp_path}/b#1.jsonl#body") == [("b#1.jsonl:1", "y")]


def test_json_lines(tmp_path):
    records = [{"text": "a\nb", "body": "x"}, {"text": "", "body": "y"}, {"text": "é", "body": "z"}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(json.dumps(r) for r in records))
    assert read(f"jsonl:{path}") == [("a.jsonl:1", "a\nb"), ("a.jsonl:5", "é")]
    assert [d.text for d in corpora.read(f"jsonl:{path}#body")] == ["x", "y", "z"]
    assert read(f"jsonl:{path}", "line")[1] == ("a.jsonl:1:2", "b")


def test_other_values_of_a_json_object_are_fields(tmp_path):
    record = {
        "text": "a\nb",
        "n": 3,
        "x": 0.5,
        "ok": True,
        "also": "é",
        "none": None,
        "list": [None],
        "o": {},
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    fields = {"n": 3, "x": 0.5, "ok": True, "also": "é"}
    whole = Document("a.jsonl:1", "a\nb", fields)
    assert list(corpora.read(f"jsonl:{tmp_path}/a.jsonl")) == [whole]
    pieces = list(corpora.read(f"jsonl:{tmp_path}/a.jsonl", "line"))
    assert pieces == [("a.jsonl:1:1", "a\n", fields), ("a.jsonl:1:2", "b", fields)]
    assert [whole.label(name) for name in ("n", "x", "ok", "also")] == ["3", "0.5", "true", "é"]
    assert (whole.number("n"), whole.text_field("also")) == (3.0, "é")


def test_other_columns_of_a_table_are_fields(tmp_path):
    (tmp_path / "a.tsv").write_text("id\ttext\t\n1\ta, b\tx\n")
    (tmp_path / "a.csv").write_text('id,text,""\n1,"a, b",x\n')
    for kind in ("tsv", "csv"):
        assert list(corpora.read(f"{kind}:{tmp_path}/a.{kind}")) == [
            Document(f"a.{kind}:2", "a, b", {"id": "1"})
        ]
        header, row = corpora.read(f"{kind}:{tmp_path}/a.{kind}#2")
        assert header == (f"a.{kind}:1", "text", {"1": "id", "3": ""})
        assert row == (f"a.{kind}:2", "a, b", {"1": "1", "3": "x"})


@pytest.mark.parametrize(
    ("read_field", "name", "message"),
    [
        (
            Document.text_field,
            "y",
            r"document a.tsv:7 has no field 'y' \(its fields: n, empty, word, big\); name",
        ),
        (Document.text_field, "n", "document a.tsv:7 has no text in the field 'n', but 3; correct"),
        (Document.label, "empty", "has no label in the field 'empty', but ''"),
        (Document.number, "word", "has no finite number in the field 'word', but 'nan'"),
        (Document.number, "empty", "has no finite number"),
        (Document.number, "big", "has no finite number"),
        (Document.number, "y", "has no field 'y'"),
    ],
)
def test_a_field_that_is_absent_or_of_another_kind_raises_user_error(read_field, name, message):
    document = Document("a.tsv:7", "text", {"n": 3, "empty": "", "word": "nan", "big": 10**400})
    with pytest.raises(UserError, match=message):
        read_field(document, name)


def test_tab_separated_values(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes('id\ttext\tend\r\n1\t"a ""b\tx\r\n\r\n2\t\ty\n3\té\\n\u2028z\t\n'.encode())
    assert read(f"tsv:{path}") == [("a.tsv:2", '"a ""b'), ("a.tsv:5", "é\\n\u2028z")]
    assert read(f"tsv:{path}#end") == [("a.tsv:2", "x"), ("a.tsv:4", "y")]
    assert [d.text for d in corpora.read(f"tsv:{path}#1")] == ["id", "1", "2", "3"]
    assert [d.text for d in corpora.read(f"tsv:{tmp_path}/*.tsv#3")] == ["end", "x", "y"]


def test_tab_separated_values_are_what_the_csv_module_reads_without_quotes(tmp_path):
    rows = [["a", 'b "c" d', "e'f"], ["", " ", "\\t"], ["x", "naïve", ""]]
    with (tmp_path / "a.tsv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None).writerows(rows)
    for column in (1, 2, 3):
        found = [d.text for d in corpora.read(f"tsv:{tmp_path}/a.tsv#{column}")]
        assert found == [row[column - 1] for row in rows if row[column - 1]]


CELLS = st.text("ab,\"'\n\r\té ", max_size=5)


@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1), end=st.sampled_from(["\n", "\r\n"]))
def test_comma_separated_values_are_what_the_csv_module_writes(rows, end, tmp_path_factory):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("a", "text", "b"), *rows])
    found = [(d.text, d.fields) for d in records.parse_csv(path, "a.csv", "text")]
    assert found == [(text, {"a": a, "b": b}) for a, text, b in rows]


def test_a_cell_in_quotation_marks_may_hold_newlines_and_megabytes(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,n\n"a ""b"",\nc",1\n\nd,2\n' + "x" * 300_000 + ",3\n")
    limit = csv.field_size_limit()
    assert [(d.name, d.text[:9], d.fields) for d in corpora.read(f"csv:{path}")] == [
        ("a.csv:2", 'a "b",\nc', {"n": "1"}),
        ("a.csv:5", "d", {"n": "2"}),
        ("a.csv:6", "x" * 9, {"n": "3"}),
    ]
    assert csv.field_size_limit() == limit


def zstandard_compress(data):
    return pytest.importorskip("zstandard").compress(data)


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstandard_compress)],
)
def test_compressed_files_are_read_and_named_as_what_they_hold(tmp_path, suffix, compress):
    contents = {"txt": "é\r\n" * 9, "jsonl": '{"text": "é"}\n', "tsv": "text\né\n", "csv": "text\né\n"}
    for kind, content in contents.items():
        plain, packed = tmp_path / f"a.{kind}", tmp_path / f"a.{kind}.{suffix}"
        plain.write_bytes(content.encode())
        packed.write_bytes(compress(content.encode()))
        spec = "text" if kind == "txt" else kind
        assert read(f"{spec}:{packed}") == read(f"{spec}:{plain}")
        packed.write_bytes(compress(content.encode())[:-9])
        with pytest.raises(
            UserError, match=rf"a.{kind}.{suffix} is damaged: .* cannot decompress it .*; restore"
        ):
            read(f"{spec}:{packed}")


def test_several_frames_are_one_text(tmp_path):
    for compress in (gzip.compress, bz2.compress, lzma.compress):
        (tmp_path / "a").write_bytes(compress(b"x\n") + compress(b"y\n"))
        assert read(f"text:{tmp_path}/a") == [("a", "x\ny\n")]


def test_zstandard_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    write(tmp_path / "a.zst", bytes.fromhex("28b52ffd") + b"rest")
    with pytest.raises(
        UserError, match=r"a.zst is compressed by Zstandard, .*; type pip install 'lm_jax\[zst\]'"
    ):
        read(f"text:{tmp_path}/a.zst")


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_a_byte_order_mark_sets_the_encoding_and_is_removed(tmp_path, codec):
    mark = "\ufeff" if codec == "utf-16-be" else ""
    write(tmp_path / "a.txt", (mark + "é😀\n").encode(codec))
    assert read(f"text:{tmp_path}/a.txt") == [("a.txt", "é😀\n")]
    write(tmp_path / "a.jsonl", (mark + '{"text": "é"}\n').encode(codec))
    assert read(f"jsonl:{tmp_path}/a.jsonl") == [("a.jsonl:1", "é")]


def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.txt", "é")
    return buffer.getvalue() + b"\xff"


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.txt"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ab\xe9", r"a.txt is not UTF-8: byte 0xe9 at offset 2; convert it .* iconv -f latin1"),
        (
            "\ufeffab".encode("utf-16-le")[:-1],
            r"a.txt is not UTF-16, as its byte order mark says: .* offset 4",
        ),
        (b"\xff\x00\x01", "a.txt is not UTF-8: byte 0xff at offset 0; give a text file"),
        (b"ab\x01\xe9", "a.txt is not UTF-8: byte 0xe9 at offset 3; give a text file"),
        (archive(), "a.txt is a zip archive, not a text; extract"),
        (tar(), "a.txt is a tar archive, not a text; extract its files"),
        (gzip.compress(tar()), "a.txt is a tar archive, not a text; extract its files"),
        (gzip.compress(b"ab\xe9"), "a.txt is not UTF-8 after gzip: byte 0xe9 at offset 2; decompress it"),
        ("hello world\n".encode("utf-16-le"), "is UTF-16 without a byte order mark.*iconv -f utf-16le"),
        (("hé" * 9000).encode("utf-16-be"), "is UTF-16 without a byte order mark.*iconv -f utf-16be"),
    ],
)
def test_only_single_byte_text_gets_the_advice_to_convert_it(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read(f"text:{write(tmp_path / 'a.txt', content)}")
    assert ("latin1" in str(caught.value)) == (content == b"ab\xe9")


def test_encodings_and_values_of_unusual_files(shared):
    cases = shared / "cases"
    assert [text for _, text in read(f"jsonl:{cases}/bom.jsonl")] == ["a", "b"]
    assert [text for _, text in read(f"text:{cases}/utf16.txt")] == ["hello world\n"]
    assert read(f"jsonl:{cases}/a.jsonl.gz")[0][0] == "a.jsonl:1"
    for name, message in {
        "bigint.jsonl": "bigint.jsonl, line 1, cannot be read as JSON .*; give",
        "null_text.jsonl": "line 1, has null in the field 'text', not a text; type",
    }.items():
        with pytest.raises(UserError, match=message):
            read(f"jsonl:{cases}/{name}")


def test_other_sources_are_read_as_the_corpus_is():
    assert corpora.with_kind("b.csv", "csv:a.csv#2") == "csv:b.csv#2"
    assert corpora.with_kind("b.tsv", "tsv:a.tsv#body") == "tsv:b.tsv#body"
    assert corpora.with_kind("b.tsv#2", "tsv:a.tsv#body") == "tsv:b.tsv#2"
    assert corpora.with_kind("b", "jsonl:a") == "jsonl:b"
    assert corpora.with_kind("b", "nltk:brown") == "text:b"
    assert corpora.with_kind("tsv:b", "text:a") == "tsv:b"


def test_fingerprints_of_different_columns_differ(tmp_path):
    (tmp_path / "a").write_text("a\tb\n1\t2\n")
    specs = [f"{kind}:{tmp_path}/a{column}" for kind in ("tsv", "jsonl") for column in ("#a", "#b")]
    assert len({corpora.read(spec).fingerprint() for spec in specs}) == 4


def test_fingerprints_of_different_contents_names_and_cuts_differ(tmp_path):
    def fingerprint(documents="file"):
        return corpora.read(f"text:{tmp_path}/*.txt", documents).fingerprint()

    (tmp_path / "a.txt").write_text("x")
    found = [fingerprint(), fingerprint("line")]
    (tmp_path / "a.txt").write_text("y")
    found.append(fingerprint())
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    found.append(fingerprint())
    assert len(set(found)) == 4
    assert fingerprint() == found[-1]


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("spec", "content", "message"),
    [
        ("text:{}", b"", "holds no text"),
        ("text:{}", b"ab\xe9", "is not UTF-8: byte 0xe9 at offset 2; convert it"),
        ("jsonl:{}", b"\n\n", "holds no text"),
        ("jsonl:{}", b'{"text": "a"}\n{"text"', "line 2, cannot be read as JSON"),
        ("jsonl:{}", b'{"text": 1}', "line 1, has a int in the field 'text', not a text"),
        ("jsonl:{}", b'{"text": null}', "line 1, has null in the field 'text'"),
        ("jsonl:{}", b'["a"]', "line 1, is a JSON list, not an object"),
        ("jsonl:{}", b"[" * 100_000, "line 1, cannot be read as JSON"),
        ("jsonl:{}", b'{"text": "a", "b": "\\ud83d"}', "half a character"),
        ("jsonl:{}#body", b'{"text": "a"}', "no text in the field 'body'"),
        ("jsonl:{}", b'{"text": "\\ud83d"}', "half a character"),
        ("tsv:{}#1", b"\n", "holds no text"),
        ("tsv:{}", b"id\ttext\n1\ta\n2\n", r"a.txt, line 3, has 1 columns where the first line has 2; let"),
        ("tsv:{}#2", b'a\t"b\n\n\tc"\td\n', "line 3, has 3 columns"),
        (
            "tsv:{}",
            b"id\tbody\n",
            r"has no column 'text' \(its first line is 'id', 'body'\); type tsv:GLOB#COL",
        ),
        ("tsv:{}#0", b"a\n", "no column '0'"),
        ("tsv:{}#3", b"a\tb\n", "no column '3'"),
        ("tsv:{}", b"text\n\xff\n", "is not UTF-8: byte 0xff at offset 5"),
        ("tsv:{}", b"a\ttext\ta\n", "has two columns named 'a'; rename"),
        ("csv:{}", b'a,text\n1,"b\nc\n', "a.txt, line 2, is not CSV .*; close each quotation mark"),
        ("csv:{}", b'a,text\n1,"b"c\n', "a.txt, line 2, is not CSV"),
        ("csv:{}", b"a,text\n1,b,c\n", "line 2, has 3 columns where the first line has 2; put cells"),
        ("csv:{}", b"a,b\n", r"has no column 'text' \(its first line is 'a', 'b'\); type csv:GLOB#COL"),
    ],
)
def test_a_malformed_file_raises_user_error(tmp_path, spec, content, message):
    path = write(tmp_path / "a.txt", content)
    with pytest.raises(UserError, match=message):
        list(corpora.read(spec.format(path)))


def test_a_missing_source_raises_user_error(tmp_path):
    write(tmp_path / "a.txt", b"x")
    write(tmp_path / "a.jsonl.gz", b"x")
    for spec, message in {
        f"text:{tmp_path}/b.txt": "no file .*b.txt; check the path",
        f"text:{tmp_path}/*.csv": "no file",
        f"csv:{tmp_path}#1": r"no file .*/\*\*/\*.csv; name the files, such as",
        f"{tmp_path}/a.txt": "no corpus .*; type text:",
        f"{tmp_path}/a.jsonl.gz": "no corpus .*; type jsonl:",
        "txt:a": "did you mean text:GLOB",
        "python_docs": "did you mean python-docs",
        "python-docs:3": "no corpus",
        "text:": "no corpus",
        "ftp": "type python-docs, python-docstrings, text:GLOB",
    }.items():
        with pytest.raises(UserError, match=message):
            corpora.read(spec)
    with pytest.raises(UserError, match="choose one of file, line, paragraph"):
        corpora.read("python-docs", "lines")
    with pytest.raises(UserError, match="choose one of file, line, paragraph"):
        cut("a", "lines")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_to_read_raises_user_error(tmp_path):
    write(tmp_path / "a.txt", b"x").chmod(0)
    with pytest.raises(UserError, match=r"cannot read .*a.txt: Permission denied"):
        list(corpora.read(f"text:{tmp_path}/a.txt"))


def test_a_file_that_vanishes_raises_user_error(tmp_path):
    path = write(tmp_path / "a.txt", b"x")
    corpus = corpora.read(f"text:{path}")
    path.unlink()
    for read in (list, corpora.Corpus.fingerprint):
        with pytest.raises(UserError, match=r"cannot read .*a.txt: No such file"):
            read(corpus)


@pytest.fixture(scope="module")
def documentation():
    return {document.name: document.text for document in corpora.read("python-docs")}


def test_python_docs_hold_docstrings_under_their_names(documentation):
    assert sum(len(text.encode()) for text in documentation.values()) > 1_500_000
    text = documentation["bisect"]
    assert text.startswith(
        "bisect\nBisection algorithms.\n\nbisect.insort_right\nInsert item x in list a, and"
    )
    assert "\n\njson.encoder.JSONEncoder.encode\nReturn a JSON string" in documentation["json.encoder"]
    assert documentation["json"].startswith("json\nJSON (JavaScript Object Notation)")
    assert 'The "assert" statement' in documentation["pydoc_data.topics"]
    assert not {name.partition(".")[0] for name in documentation} & {
        "test",
        "idlelib",
        "tkinter",
        "pip",
        "numpy",
    }


def test_python_docs_have_each_docstring_that_the_compiler_sees(documentation):
    import argparse

    found = set(documentation["argparse"].split("\n"))
    for thing in (
        argparse,
        argparse.ArgumentParser,
        argparse.ArgumentParser.add_subparsers,
        argparse.FileType,
    ):
        if thing.__doc__:
            assert thing.__doc__.strip().split("\n")[0] in found


def test_optimised_bytecode_changes_nothing():
    program = (
        "import hashlib, sys\nfrom lm_jax.data import python_docs\nroot = python_docs.root()\n"
        "paths = [p for p in python_docs.sources(root) if p.parent.name in ('json', 'pydoc_data', 'email')]\n"
        "texts = [python_docs.documentation(p, python_docs.module_name(p, root)) for p in paths]\n"
        "print(len(''.join(texts)), hashlib.sha256(''.join(texts).encode()).hexdigest())"
    )
    outputs = [
        subprocess.run(
            [sys.executable, *flags, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        for flags in ([], ["-OO"])
    ]
    assert outputs[0] == outputs[1]
    assert int(outputs[0].split()[0]) > 500_000


def test_unreadable_files_of_the_standard_library_are_skipped(tmp_path, monkeypatch):
    sources = {
        "good.py": '"""Doc.\n\n    Indented.\n    """\nif 1:\n    def f():\n        "Inner."\n',
        "package/__init__.py": '"Package."\nclass A:\n    def b(self):\n        """B\ud83d."""\n',
        "latin.py": "# -*- coding: latin-1 -*-\n'caf\xe9'\n",
        "syntax.py": "def f(:\n",
        "bytes.py": "'\xff'",
        "null.py": "x = '\0'\n",
        "silent.py": "x = 1\n",
        "test/hidden.py": "'Hidden.'",
        "lib-dynload/hidden.py": "'Hidden.'",
    }
    for name, source in sources.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        codec = "latin-1" if name in ("latin.py", "bytes.py") else "utf-8"
        path.write_bytes(source.replace("\ud83d", "\\ud83d").encode(codec))
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(python_docs, "root", lambda: tmp_path)
    monkeypatch.setitem(corpora._LEAST_OF_PYTHON, "python-docs", 10)
    assert dict(read("python-docs")) == {
        "good": "good\nDoc.\n\nIndented.\n\ngood.f\nInner.\n",
        "package": "package\nPackage.\n\npackage.A.b\nB?.\n",
        "latin": "latin\ncafé\n",
    }
    monkeypatch.undo()
    monkeypatch.setattr(python_docs, "root", lambda: tmp_path)
    with pytest.raises(UserError, match=f"only .. bytes of documentation .* at {tmp_path}; use a Python"):
        list(corpora.read("python-docs"))


DOCUMENTS = [Document(f"d{i}", f"word{i} é{i}\n" * (i % 7)) for i in range(1, 400) if i % 7]
WHOLE = "".join(document.text for document in DOCUMENTS)


def parts(split, documents=DOCUMENTS, whole=False):
    found = {"train": [], "valid": [], "test": []}
    for part, document in splits.assign(splits.parse(split), documents, whole):
        found[part].append(document)
    return found


def test_a_hash_split_of_a_document_does_not_depend_on_others():
    found, fewer = parts("hash:0.2,0.1"), parts("hash:0.2,0.1", DOCUMENTS[::2])
    assert sorted(d for part in found.values() for d in part) == sorted(DOCUMENTS)
    for part, share in (("valid", 0.2), ("test", 0.1)):
        assert abs(len(found[part]) / len(DOCUMENTS) - share) < 0.05
        assert fewer[part] == [d for d in DOCUMENTS[::2] if d in found[part]]
    place = {d.name: int(hashlib.sha256(d.name.encode()).hexdigest()[:16], 16) / 2**64 for d in DOCUMENTS}
    assert [d.name for d in found["valid"]] == [d.name for d in DOCUMENTS if place[d.name] < 0.2]
    assert parts("hash:0.2")["test"] == []


def test_the_tail_of_tinyshakespeare_equals_nanogpts(shared):
    path = shared / "data/tinyshakespeare.txt"
    text = path.read_text(encoding="utf-8")
    found = parts("tail:0.1", corpora.read(f"text:{path}"))
    assert [d.text for d in found["train"]] == [text[: int(0.9 * len(text))]]
    assert [len(d.text) for d in found["valid"]] == [111_540]
    assert found == parts("tail:111540chars", corpora.read(f"text:{path}"))


@pytest.mark.parametrize("split", ["tail:0.25,0.125", "tail:1000chars,333chars", "tail:200words,100words"])
def test_a_tail_is_the_end_of_the_text(split):
    found = parts(split)
    train, valid, test = ("".join(d.text for d in found[part]) for part in splits.PARTS)
    assert train + valid + test == WHOLE
    if "0.25" in split:
        assert len(train) == int(0.625 * len(WHOLE))
        assert len(test) == len(WHOLE) - int(0.875 * len(WHOLE))
    elif "chars" in split:
        assert (len(valid), len(test)) == (1000, 333)
    else:
        assert (len(valid.split()), len(test.split())) == (200, 100)
        assert not test[0].isspace()
    assert sum(map(len, found.values())) - len(DOCUMENTS) <= 2


@pytest.mark.parametrize("split", ["tail:0.25,0.125", "tail:1000chars,333chars", "tail:200words,100words"])
def test_a_tail_of_whole_documents_cuts_none(split):
    found, cut = parts(split, whole=True), parts(split)
    assert [d for part in splits.PARTS for d in found[part]] == DOCUMENTS
    first_part = {d.name: part for part in reversed(splits.PARTS) for d in cut[part]}
    assert {d.name: part for part in splits.PARTS for d in found[part]} == first_part


def test_pieces_of_a_cut_document_have_its_fields():
    found = parts("tail:0.5", [Document("d", "0123", {"label": "x"})])
    assert [d for part in splits.PARTS for d in found[part]] == [
        ("d", "01", {"label": "x"}), ("d", "23", {"label": "x"}),
    ]  # fmt: skip


def test_fractions_are_exact_and_a_tail_at_a_document_boundary_cuts_none():
    found = parts("tail:0.1", [Document("d", "0123456789")])
    assert [d.text for d in found["train"]] == ["012345678"]
    documents = [Document("a", "x y"), Document("b", "\nz")]
    assert parts("tail:1words", documents) == {"train": documents[:1], "valid": documents[1:], "test": []}


@given(
    counts=st.lists(st.integers(0, 3), min_size=1), held_out=st.tuples(st.integers(1, 9), st.integers(0, 9))
)
def test_tails_count_words_over_documents_without_any(counts, held_out):
    documents = [Document(str(i), "\n" + "w " * n) for i, n in enumerate(counts)]
    split = f"tail:{held_out[0]}words,{held_out[1]}words"
    if sum(held_out) >= sum(counts):
        with pytest.raises(UserError, match="to train on"):
            parts(split, documents)
        return
    found = parts(split, documents)
    texts = ["".join(d.text for d in found[part]) for part in splits.PARTS]
    assert "".join(texts) == "".join(d.text for d in documents)
    assert [len(plain.words(text.encode())) for text in texts[1:]] == list(held_out)


@given(text=LINES, repeats=st.sampled_from([1, 3000]))
def test_words_are_counted_in_short_and_long_texts(text, repeats):
    data = text.encode() * repeats
    assert words.count_words(data) == len(plain.words(data))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("", "is not a split; type hash"),
        ("hash", "is not a split"),
        ("hash:", "is not a split"),
        ("hash:0.1,0.1,0.1", "is not a split"),
        ("hash:-0.1", "is not a split"),
        ("hash:100words", "is not a split"),
        ("tail:1.5words", "is not a split"),
        ("tail:10tokens", "is not a split"),
        ("head:0.1", "is not a split"),
        ("tail:0.1,100words", "mixes units"),
        ("hash:0.5,0.5", "leaves nothing to train on"),
    ],
)
def test_a_wrong_split_raises_user_error(split, message):
    with pytest.raises(UserError, match=message):
        splits.parse(split)


def test_a_tail_as_long_as_the_text_raises_user_error():
    for split in ("tail:10words", "tail:6chars,4chars", "tail:11chars"):
        with pytest.raises(UserError, match="to train on"):
            parts(split, [Document("d", "a b c d e\n")])


def test_the_standard_library_is_parsed_not_imported():
    source = ast.parse((python_docs.root() / "this.py").read_text())
    assert isinstance(source, ast.Module)
    assert "this" not in sys.modules
