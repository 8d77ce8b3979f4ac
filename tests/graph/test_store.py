"""Tensors by name, in memory and in files."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parity.errors import OutputError
from parity.graph.store import TensorStore, ValueStore

_DTYPES = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64, np.bool_, ml_dtypes.bfloat16])


@given(st.lists(st.tuples(st.sampled_from("abc"), _DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))),
       st.sampled_from([0, 40, 10**6]))
def test_what_was_put_comes_back(puts: list[tuple[str, type, tuple[int, ...]]], limit: int) -> None:
    """Whatever the limit, the last array put under a name is there, with its type and shape."""
    store = TensorStore(limit)
    expected: dict[str, np.ndarray] = {}
    for seed, (name, dtype, shape) in enumerate(puts):
        expected[name] = np.random.default_rng(seed).integers(0, 2, shape).astype(dtype)
        store.put(name, expected[name])
    assert store.keys() == expected.keys()
    for name, array in expected.items():
        assert store[name].dtype == array.dtype
        assert store[name].shape == array.shape
        assert np.array_equal(store[name], array)


def test_what_is_over_the_limit_lies_in_files() -> None:
    """The first array fits and stays; the second does not and comes back as a read-only map."""
    store = TensorStore(100)
    store.put("kept", np.zeros(10, np.float64))
    store.put("aside", np.ones(10, np.float64))
    assert store.spilled == 1
    assert store["kept"].flags.writeable
    assert not store["aside"].flags.writeable


def test_dropping_makes_room_again() -> None:
    """Memory freed by a dropped array is used for the next, and its file, had it one, is removed."""
    store = TensorStore(80)
    for name in "abc":
        store.put(name, np.zeros(10))
    folder = Path(store._folder.name)
    assert len(list(folder.iterdir())) == 2
    for name in ("a", "b", "nobody"):
        store.drop(name)
    assert len(list(folder.iterdir())) == 1
    store.put("d", np.zeros(10))
    assert store.spilled == 1
    assert "a" not in store
    assert set(store) == {"c", "d"}


def test_text_stays_in_memory() -> None:
    """Strings cannot be mapped, so no limit puts them aside."""
    store = TensorStore(0)
    store.put("words", np.array(["one", "two"], object))
    assert store.spilled == 0
    assert store["words"].tolist() == ["one", "two"]


def test_a_disk_that_cannot_be_written_is_told() -> None:
    """An array that finds no place raises an error that names it."""
    store = TensorStore(0)
    store._folder.cleanup()
    with pytest.raises(OutputError, match="'big'"):
        store.put("big", np.zeros(10))
    assert "big" not in store


@pytest.mark.parametrize("limit", [0, 10**6])
def test_sequences_and_nothing_are_kept(limit: int) -> None:
    """A sequence, an empty one and an absent optional come back as what they were, and can be replaced."""
    store = ValueStore(limit)
    store["sequence"] = [torch.zeros(2), torch.ones(3, dtype=torch.int64)]
    store["empty"], store["absent"], store["half"] = [], None, torch.ones(2, dtype=torch.bfloat16)
    found = store["sequence"]
    assert isinstance(found, list)
    assert [torch.as_tensor(t).tolist() for t in found] == [[0, 0], [1, 1, 1]]
    assert store["empty"] == []
    assert store["absent"] is None
    half = store["half"]
    assert isinstance(half, torch.Tensor)
    assert half.dtype == torch.bfloat16
    assert store.spilled == (3 if limit == 0 else 0)
    store["sequence"] = torch.zeros(1)
    assert torch.equal(torch.as_tensor(store.pop("sequence")), torch.zeros(1))
    assert set(store) == {"empty", "absent", "half"}
    assert store.spilled == (1 if limit == 0 else 0)
