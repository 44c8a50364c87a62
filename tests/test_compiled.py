"""jax's cache of compiled programs with digests: what is damaged is compiled again, without a word."""

import hashlib
import warnings

import damage
import jax
import jax.numpy as jnp
import pytest
from jax._src import compilation_cache

from lm_jax import compiled


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of this process, with digests."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(compilation_cache, "get_file_cache", compilation_cache.get_file_cache)
    compiled.seal_cache()
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def run():
    """A result whose program is compiled, or read from the cache."""
    jax.clear_caches()
    return float(jax.jit(lambda x: jnp.sin(x) * 2 + 1)(0.5))


def test_a_damaged_program_is_compiled_again(cache):
    expected = run()
    [path] = cache.glob("jit__lambda*")
    good = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # jax warns about a program that it cannot read
        for what, data in damage.damages(good):
            if data is None:
                path.unlink()
            else:
                path.write_bytes(data)
            assert run() == expected, what
            stored = path.read_bytes()  # its bytes differ from compilation to compilation
            assert hashlib.sha256(stored[:-32]).digest() == stored[-32:], f"{what}: not stored again"


def test_an_entry_that_is_there_is_read(cache, monkeypatch):
    expected, found = run(), []
    get = compiled.SealedCache.get
    monkeypatch.setattr(compiled.SealedCache, "get", lambda *a: found.append(get(*a)) or found[-1])
    assert run() == expected
    assert found
    assert None not in found


def test_a_cache_of_another_kind_is_left_as_it_is(cache, monkeypatch):
    other = (object(), "path")
    monkeypatch.setattr(compilation_cache, "get_file_cache", lambda path: other)
    compiled.seal_cache()
    assert compilation_cache.get_file_cache("path") == other
