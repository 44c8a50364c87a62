"""Seals: each damage is noticed, and a process that is killed at any moment leaves a directory that opens."""

import itertools
import json
import os
import shutil

import damage
import pytest
from killed import killed_at

from lm_jax import digests, files, seal
from lm_jax.errors import UserError


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def write(directory, content):
    with seal.staged(directory) as stage:
        for name, text in content.items():
            files.write_text(stage / name, text)


def content(directory):
    return {name: (directory / name).read_text() for name in seal.files_in(directory) if "tmp" not in name}


def test_each_damage_is_named(tmp_path):
    write(tmp_path / "run", {"a.json": '{"x": 12.5}\n', "deep/er/b.txt": "two words 7\n" * 50})

    def opened(directory):
        seal.check(directory)
        return content(directory)

    tried, wrong = damage.survey(
        tmp_path / "run", ["a.json", "deep/er/b.txt", seal.FILE], opened, tmp_path / "copy"
    )
    # Without a seal the directory opens; a space in the seal decides nothing.
    assert (tried, wrong) == (57, [])


def test_a_directory_without_a_seal_is_not_checked(tmp_path):
    (tmp_path / "a").write_text("1")
    assert seal.check(tmp_path) is None
    assert seal.exists(tmp_path / "a")
    assert not seal.exists(tmp_path / "b")


def test_only_the_files_that_are_named_are_checked(tmp_path):
    write(tmp_path, {"a": "1", "b/c": "2", "b/d": "3"})
    (tmp_path / "b/d").write_text("4")
    seal.check(tmp_path, "a", "b/c")
    with pytest.raises(
        UserError, match=r"damaged: b/d is not what was written, in bytes 0 to 1; restore the file"
    ):
        seal.check(tmp_path, "b")


def test_a_missing_file_is_not_taken_for_one_that_never_was(tmp_path):
    write(tmp_path, {"test.jsonl": "1"})
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(UserError, match=r"test\.jsonl is missing"):
        seal.exists(tmp_path / "test.jsonl")
    with seal.staged(tmp_path, optional=["results.json"]) as stage:
        files.write_text(stage / "results.json", "1")
    (tmp_path / "results.json").unlink()
    assert not seal.exists(tmp_path / "results.json")


def test_a_file_that_is_deleted_while_it_is_checked(tmp_path, monkeypatch):
    """As the checkpoint of a run that trains while another process opens it."""
    has_block = digests.State.has_block
    for remove, left in (
        (lambda path: path.unlink(), True),
        (lambda path: shutil.rmtree(path.parent), False),
    ):
        write(tmp_path / "run", {"a": "1"})

        def is_good(state, path, start, remove=remove):
            remove(path)
            return has_block(state, path, start)

        with monkeypatch.context() as patch:
            patch.setattr(digests.State, "has_block", is_good)
            if left:
                with pytest.raises(UserError, match=r"run is damaged: .*a is missing"):
                    seal.check(tmp_path / "run")
            else:
                assert seal.check(tmp_path / "run") is None


@pytest.mark.parametrize("before", [{}, {"a": "old", "b/c": "old"}, {"a": "new", "b/c": "old"}])
def test_killed_at_any_operation_the_directory_opens_and_can_be_written_again(tmp_path, monkeypatch, before):
    new, seen, finished = {"a": "new", "b/c": "new", "z": "new"}, set(), False
    for number in itertools.count(1):
        directory = tmp_path / str(number)
        if before:
            write(directory, before)
        with killed_at(number, monkeypatch):
            write(directory, new)
            finished = True
        if directory.exists():
            seal.check(directory)
            left = {name: text for name, text in content(directory).items() if not name.startswith(".")}
            assert left.items() <= {*before.items(), *new.items()}, "a file is the old one or the new one"
            seen.add(tuple(left.items()))
        write(directory, new)
        seal.check(directory)
        files.tidy(directory)
        assert sorted(p.name for p in directory.iterdir()) == ["a", "b", seal.FILE, "z"]
        assert content(directory) == new
        (directory / "z").unlink()
        with pytest.raises(UserError, match="z is missing"):
            seal.check(directory)
        if finished:
            break
    assert len(seen) > 2, "no operation was between two files"


def test_a_file_that_grows_is_sealed_up_to_its_last_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with seal.staged(tmp_path, grows=[path.name]) as stage:
        files.write_text(stage / path.name, "1\n")
    with path.open("a") as file:
        file.write("2\n")
    seal.check(tmp_path)
    seal.update(path, grows=True)
    path.write_text("1\n2\n3")
    seal.check(tmp_path)
    for damaged in ("1\n", "1\n3\n3", ""):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"is damaged: metrics\.jsonl "):
            seal.check(tmp_path)
    path.write_text("1\n2\n")
    seal.update(path)
    path.write_text("1\n2\n3")
    with pytest.raises(UserError, match="has 5 bytes, and was written with 4"):
        seal.check(tmp_path)


def test_blocks_are_digested_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "BLOCK", 8)
    monkeypatch.setattr(seal, "BLOCK", 8)
    write(tmp_path, {"a": "0123456789" * 5, "empty": ""})
    [state] = seal.read(tmp_path).states["a"]
    assert (state.size, len(state.digests)) == (50, 7)
    seal.check(tmp_path)
    data = bytearray((tmp_path / "a").read_bytes())
    data[49] ^= 1
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(UserError, match="a is not what was written, in bytes 48 to 50"):
        seal.check(tmp_path)


def test_of_a_large_directory_all_is_read_once_and_then_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "BLOCK", 8)
    monkeypatch.setattr(seal, "BLOCK", 8)
    monkeypatch.setattr(seal, "WHOLE", 80)
    write(tmp_path, {"a": "0123456789" * 40})
    read = []
    monkeypatch.setattr(digests.State, "has_block", lambda *block: read.append(block[1:]) or True)

    def blocks(**options):
        read.clear()
        seal.check(tmp_path, **options)
        return len(read)

    assert [blocks(), blocks(), blocks(whole=True)] == [50, 10, 50]
    os.utime(tmp_path / "a")
    assert [blocks(), blocks()] == [50, 10]


def test_the_seal_of_a_checkpoint_of_an_earlier_version(tmp_path):
    (tmp_path / "w").write_text("12")
    digest = "6b51d431df5d7f141cbececcf79edf3dd861c3b4069f0b11661a3eefacbba918"  # sha256sum
    files.write_json(tmp_path / seal.FILE, {"files": {"w": digest}, "forms": {"params": {}}})
    assert seal.check(tmp_path).facts == {"forms": {"params": {}}}
    (tmp_path / "w").write_text("13")
    with pytest.raises(UserError, match="damaged: w is not"):
        seal.check(tmp_path)


def test_a_seal_of_a_newer_version_is_named(tmp_path):
    write(tmp_path, {"a": "1"})
    values = json.loads((tmp_path / seal.FILE).read_text()) | {"format_version": 2}
    (tmp_path / seal.FILE).write_text(json.dumps(values))
    with pytest.raises(UserError, match="is of format 2"):
        seal.check(tmp_path)
