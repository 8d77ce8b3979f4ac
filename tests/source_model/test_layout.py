"""Layouts: the same elements in another order."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parity.source_model.fingerprint import Fingerprint, Index
from parity.source_model.layout import Layout, distance, find_layout, nearest_layout

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(shapes, st.integers(0, 2**16), st.randoms())
def test_a_permuted_tensor_is_found_again(shape: list[int], seed: int, random: object) -> None:
    """Whatever the order of the axes, the layout that is found gives the tensor."""
    value = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    axes = list(range(len(shape)))
    random.shuffle(axes)  # type: ignore[attr-defined]
    wanted = value.permute(axes).contiguous()
    found = find_layout(value, wanted, 1e-9)
    assert found is not None
    assert torch.equal(found[0].apply(value), wanted)


def test_axes_that_are_split_and_swapped_are_found() -> None:
    """[T, N, 2·H] is [T, 2, N, H], as recurrent layers lay out their directions."""
    value = torch.randn(5, 3, 8, dtype=torch.float64)
    wanted = value.reshape(5, 3, 2, 4).permute(0, 2, 1, 3).contiguous()
    found = find_layout(value, wanted, 1e-9)
    assert found is not None
    assert torch.equal(found[0].apply(value), wanted)


def test_shuffled_elements_are_no_layout() -> None:
    """Elements in an order that no axes have are another tensor."""
    value = torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 4)
    assert find_layout(value, value.reshape(-1)[torch.randperm(24)].reshape(2, 3, 4), 1e-9) is None


@pytest.mark.parametrize("big", [float("inf"), torch.finfo(torch.float64).max])
def test_what_is_beyond_fp32_is_equal_to_its_largest(big: float) -> None:
    """A mask of −∞ in one program is one of FP32's lowest in the other."""
    assert distance(torch.tensor([1.0, -big]).double(), torch.tensor([1.0, -torch.finfo(torch.float32).max])) == 0


@given(shapes, st.integers(0, 2**16), st.floats(-1e-7, 1e-7))
def test_a_fingerprint_fits_what_is_near(shape: list[int], seed: int, change: float) -> None:
    """No tensor within the tolerance is overlooked, in whatever order its elements are."""
    value = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    near = (value * (1 + change)).flatten().flip(0)
    assert Fingerprint.of(value).fits(Fingerprint.of(near), 1e-6)
    assert Index({"a": near, "b": value * 2 + 1}, ["a", "b"]).find(value, 1e-6)[:1] == ["a"]


def test_an_index_keeps_the_order_of_what_it_was_given() -> None:
    """Equal tensors come in the order in which they were made."""
    value = torch.ones(3)
    found = Index(dict.fromkeys("cab", value), "cab").find(value, 1e-6)
    assert all("cab".index(a) < "cab".index(b) for a, b in pairwise(found))
    assert len(found) == 3


def test_numbers_that_differ_are_laid_out_as_they_are_nearest() -> None:
    """A change of the numbers does not hide the order of elements; what is nothing like it stays as it is."""
    value = torch.randn(5, 2, 12, generator=torch.Generator().manual_seed(0))
    wanted = value.reshape(5, 2, 2, 6).permute(0, 2, 1, 3) * 1.05
    layout, apart = nearest_layout(value, wanted)
    assert torch.equal(layout.apply(value) * 1.05, wanted)
    assert apart == pytest.approx(0.05 / 1.05, rel=1e-3)
    other = torch.randn(5, 2, 2, 6, generator=torch.Generator().manual_seed(1))
    assert nearest_layout(value, other)[0] == Layout.plain((5, 2, 2, 6))
