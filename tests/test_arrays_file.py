"""A file of arrays gives what was written, or says that it is damaged."""

import numpy as np
import pytest

from bert_jax.train.arrays_file import load_arrays, save_arrays


def test_every_damage_is_told_in_one_sentence(tmp_path):
    path = tmp_path / "some.npz"
    arrays = {"a": np.arange(100), "b": np.ones((2, 3), np.float32)}
    save_arrays(path, arrays)
    whole = path.read_bytes()
    pieces = [whole[:size] for size in range(0, len(whole), 5)]
    flips = [
        whole[:n] + bytes([whole[n] ^ 0xFF]) + whole[n + 1 :] for n in range(len(whole))
    ]
    said = []
    for content in (*pieces, *flips):
        path.write_bytes(content)
        try:
            found = load_arrays(path, arrays, "Make it again.")
        except ValueError as error:
            said.append(str(error))
        else:  # a byte that says nothing of the arrays, such as their time
            np.testing.assert_equal(found, arrays)
    assert len(said) > len(pieces + flips) / 2
    assert all(x.startswith(f"{path} is damaged (") for x in said)
    assert all(x.endswith("). Make it again.") for x in said)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"damaged \(.*c is not a file"):
        load_arrays(path, ["c"], "Make it again.")
