"""Checkpoints: which are kept, that they come back whole, and that a damaged one is noticed."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax import seal
from lm_jax.checkpoint import Checkpoints, Spaced
from lm_jax.errors import UserError


def make_arrays(step):
    """Parameters, and what else a run saves."""
    params = {"params": {"w": jnp.arange(6.0).reshape(2, 3) + step, "b": jnp.full(3, float(step))}}
    return params, (optax.adamw(1e-3).init(params), None)


def like(tree):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def save_all(workdir, losses, **options):
    with Checkpoints(workdir, **options) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, *make_arrays(step), loss)


def test_the_latest_and_the_best_are_kept(tmp_path):
    save_all(tmp_path, {10: 3.0, 20: 1.0, 30: 2.0, 40: None})
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (40, 20)
        assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["20", "40"]


def test_of_checkpoints_without_a_loss_only_the_latest_is_kept(tmp_path):
    save_all(tmp_path, {10: None, 20: 1.0, 30: None, 40: None})
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["20", "40"]


def kept(workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.all_steps()


LOSSES = {step: 2.0 if step == 30 else 3.0 for step in range(10, 110, 10)}


@pytest.mark.parametrize(
    ("spaced", "steps"),
    [
        (None, list(LOSSES)),
        (Spaced.evenly(0, 100), [30, 100]),
        (Spaced.evenly(1, 100), [30, 100]),
        (Spaced.evenly(4, 100), [30, 50, 80, 100]),
        (Spaced.evenly(3, 1000), [30, 100]),
        (Spaced.evenly(500, 100), list(LOSSES)),
    ],
)
def test_so_many_checkpoints_are_kept_evenly_spaced(tmp_path, spaced, steps):
    save_all(tmp_path, LOSSES, spaced=spaced)
    assert kept(tmp_path) == steps
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (30, 100)
        for step in steps:
            assert seal.check(tmp_path / "checkpoints" / str(step), whole=True) is not None
            np.testing.assert_array_equal(
                checkpoints.read_params(step)["params"]["w"], make_arrays(step)[0]["params"]["w"]
            )


def test_which_are_kept_does_not_depend_on_where_a_run_was_stopped(tmp_path):
    for step, loss in LOSSES.items():  # a process for each
        save_all(tmp_path, {step: loss}, spaced=Spaced.evenly(4, 100))
    (tmp_path / "checkpoints" / "110.orbax-checkpoint-tmp").mkdir()  # killed while it wrote one
    assert kept(tmp_path) == [30, 50, 80, 100]


def test_a_checkpoint_that_is_no_longer_kept_is_never_removed_in_place(tmp_path, monkeypatch):
    def look(path, **options):
        if path.is_dir():
            seen.extend((p.name, seal.check(p) is not None) for p in path.iterdir())
        remove(path, **options)

    remove, seen = shutil.rmtree, []
    monkeypatch.setattr(shutil, "rmtree", look)
    save_all(tmp_path, {10: None, 20: None})
    assert seen == [("10", True)]
    # A process that was killed has left a part of one.
    (tmp_path / "checkpoints" / ".replaced" / "10").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 20
        assert not (tmp_path / "checkpoints" / ".replaced").exists()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("RESOURCE_EXHAUSTED: Failed to open: No space left [os_error_code='28']"),
        OSError(28, "No space left on device"),
    ],
)
def test_a_full_disk_names_the_directory(tmp_path, error):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(OSError, match="No space left on device") as raised, checkpoints._writing():
        raise error
    assert raised.value.filename == str(checkpoints.directory)
    for other in (ValueError("another"), UserError("[os_error_code='28']")):
        with pytest.raises(ValueError, match=str(other)[:7].replace("[", r"\[")), checkpoints._writing():
            raise other


def test_no_directory_is_made_before_the_first_save(tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.latest_step() is None
    assert not (tmp_path / "run").exists()


def test_arrays_come_back_bit_for_bit(tmp_path):
    saved = make_arrays(5)
    save_all(tmp_path, {5: None})
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(5, *like(saved))
        alone = [checkpoints.restore_params(5, like(saved[0])), checkpoints.read_params(5)]
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    jax.tree.map(np.testing.assert_array_equal, restored, saved)
    for params in alone:
        jax.tree.map(np.testing.assert_array_equal, params, saved[0])


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_named(tmp_path, damage):
    save_all(tmp_path, {5: None})
    directory = tmp_path / "checkpoints" / "5" / "params" / "ocdbt.process_0" / "d"
    path = max(directory.iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.unlink()
    if damage != "remove":
        path.write_bytes(data if damage == "flip" else data[:-7])
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=f"damaged: .*{path.name}"):
        checkpoints.restore(5, *like(make_arrays(5)))


def test_another_shape_is_refused(tmp_path):
    save_all(tmp_path, {5: None})
    wider, _ = make_arrays(5)
    wider["params"]["b"] = jnp.zeros(4)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="does not fit the config"):
        checkpoints.restore_params(5, like(wider))


@pytest.mark.parametrize("which", ["7", "newest", "-1", "9" * 5000])
def test_a_missing_step_is_named(tmp_path, which):
    save_all(tmp_path, {5: 1.0})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.choose("best") == checkpoints.choose("latest") == checkpoints.choose("5") == 5
        with pytest.raises(UserError, match=rf"no checkpoint {which[:80]} .*\[5\]"):
            checkpoints.choose(which)
