"""Values on their way between numpy and torch."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from parity.graph.ops.call import from_numpy, to_numpy


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8", "bool", "complex64"])
def test_an_array_of_another_process_becomes_a_tensor(dtype: str) -> None:
    """A pickled dtype is not the built-in object, but its values are computed with like any others."""
    array: np.ndarray = pickle.loads(pickle.dumps(np.arange(3).astype(dtype)))  # noqa: S301 - made in this line
    found = from_numpy(array)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(to_numpy(found), array)


def test_what_torch_lacks_stays_as_it_is() -> None:
    """Texts, and bytes in the other order, are handed to the numpy reference."""
    for array in (np.array(["a"], dtype=object), np.arange(3, dtype=">i4")):
        assert from_numpy(array) is array
