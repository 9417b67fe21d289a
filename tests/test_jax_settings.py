"""The numbers of a run do not depend on JAX's settings, whoever changed them."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zstandard

from bert_jax.runtime import jax_settings
from bert_jax.runtime.compile_cache import use_compile_cache
from bert_jax.runtime.jax_settings import OURS, our_settings

# Another value for each setting.
OTHER = {
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 3,
    "jax_enable_x64": True,
    "jax_default_matmul_precision": "bfloat16",
    "jax_numpy_dtype_promotion": "strict",
    "jax_softmax_custom_jvp": True,
    "jax_allow_f16_reductions": False,
}


@pytest.fixture
def other_settings():
    before = dict(jax.config.values)
    jax_settings._say_once.cache_clear()
    for name, value in OTHER.items():
        jax.config.update(name, value)
    yield
    for name in OTHER:
        jax.config.update(name, before[name])


@our_settings()
def drawn() -> list[np.ndarray]:
    key = jax.random.key(5)
    bits = jax.random.uniform(jax.random.fold_in(key, 1), (3, 5))
    return [np.asarray(x) for x in (jax.random.key_data(key), bits, jnp.arange(3.0))]


def test_every_setting_is_varied():
    assert OTHER.keys() == OURS.keys()
    assert not any(OTHER[name] == OURS[name] for name in OURS)


def test_numbers_and_types_stay(other_settings, capsys):
    found = drawn()
    said = capsys.readouterr().err
    assert all(
        f"{name}={value!r} is put aside" in said for name, value in OTHER.items()
    )
    assert jax.config.jax_enable_x64  # the user's own settings are back
    drawn()
    assert capsys.readouterr().err == "", "a note is printed once in a process"
    for name in OTHER:
        jax.config.update(name, OURS[name])
    for a, b in zip(found, drawn(), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert capsys.readouterr().err == ""


def test_settings_come_back_when_the_last_thread_has_left(other_settings):
    entered, may_leave = threading.Event(), threading.Event()

    def stay():
        with our_settings():
            entered.set()
            may_leave.wait(60)

    other = threading.Thread(target=stay)
    other.start()
    entered.wait(60)
    with our_settings():
        may_leave.set()
        other.join()
        assert {name: jax.config.values[name] for name in OURS} == OURS
    assert {name: jax.config.values[name] for name in OTHER} == OTHER


def test_the_variable_is_named(capsys, monkeypatch):
    monkeypatch.setenv("JAX_RANDOM_SEED_OFFSET", "3")
    jax.config.update("jax_random_seed_offset", 3)
    try:
        drawn()
    finally:
        jax.config.update("jax_random_seed_offset", 0)
    assert "the variable JAX_RANDOM_SEED_OFFSET would change" in capsys.readouterr().err


def test_a_context_that_cannot_be_left_is_refused():
    with (
        jax.enable_x64(True),
        pytest.raises(RuntimeError, match="jax_enable_x64 is True"),
    ):
        drawn()
    assert not jax.config.jax_enable_x64


def test_programs_that_were_cut_short_leave_the_compile_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    whole = zstandard.compress(b"program" * 99)
    names = [f"jit_{name}-{'0a' * 32}-cache" for name in ("whole", "cut", "empty")]
    for name, size in zip(names, (len(whole), len(whole) // 2, 0), strict=True):
        (tmp_path / name).write_bytes(whole[:size])
    (tmp_path / "my-cache").write_bytes(b"of somebody else")
    use_compile_cache(tmp_path, jax.local_devices()[:1])
    assert {x.name for x in tmp_path.iterdir()} == {names[0], "my-cache"}


def test_a_file_is_no_compile_cache(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; expected a directory"):
        use_compile_cache(tmp_path / "file", jax.local_devices()[:1])
