"""What the outputs of a part should be: correct runs pass, faults do not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from parity.reduce.expect import Expectation, by_floor, by_limit
from parity.reduce.part import Part
from tests.builders import chain, node
from tests.reduce.cases import model_of, weights

FEED = {"x": np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)}


def part_of(model: Model) -> Part:
    """The whole model as a part."""
    return Part(model, model, FEED)


def test_rounding_passes_and_a_fault_does_not() -> None:
    """The floor lets an FP32 run through and stops a weight that is off by a thousandth."""
    good = Model.from_proto(model_of([node("MatMul", ["x", "w0"], ["y"])], weights("w0")))
    (expected,) = by_floor(part_of(good))
    right = to_numpy(Executor(good).run(FEED)["y"])
    assert not expected.broken_by(right)
    assert expected.broken_by(right * np.float32(1.001))
    assert expected.tolerance < 1e-3 * np.linalg.norm(right)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([1e-4, 1e-2, 0.3]))
def test_a_limit_is_relative_to_the_norm(limit: float) -> None:
    """An output scaled by less than the limit passes, by more it does not."""
    (expected,) = by_limit(part_of(Model.from_proto(chain())), limit)
    assert not expected.broken_by(expected.values * (1 + 0.99 * limit))
    assert expected.broken_by(expected.values * (1 + 1.01 * limit))


def test_a_quantised_value_may_be_rounded_either_way() -> None:
    """Half a step is a decision; a step that the value lies nearer to is not to be passed over."""
    steps = {"s": np.float32(0.1), "z": np.int8(0)}
    model = Model.from_proto(model_of([node("QuantizeLinear", ["x", "s", "z"], ["y"])], steps))
    (expected,) = by_floor(part_of(model))
    right = to_numpy(Executor(model).run(FEED)["y"])
    assert not expected.broken_by(right)
    assert expected.broken_by(np.floor(expected.values))


@pytest.mark.parametrize(("got", "error"), [
    ([1.0, 2.0, np.inf], 0.0), ([1.0, 2.5, np.inf], 0.5), ([1.0, 2.0, -np.inf], math.inf),
    ([1.0, np.nan, np.inf], math.inf), ([1.0, 2.0], math.inf)])
def test_the_error_counts_finite_elements(got: list[float], error: float) -> None:
    """NaN and Inf must stand where they should; another shape is an error beyond all."""
    expected = Expectation("y", np.array([1.0, 2.0, np.inf]), 0.1, "l2", "")
    assert expected.error(np.array(got)) == error


def test_zeros_have_a_floor_too() -> None:
    """Where the result is exactly zero, so must a kernel's be, but for subnormals."""
    model = Model.from_proto(model_of([node("Mul", ["x", "k"], ["y"])], {"k": np.float32(0)}))
    (expected,) = by_floor(part_of(model))
    assert not expected.broken_by(np.zeros((4, 8), np.float32))
    assert expected.broken_by(np.full((4, 8), 1e-3, np.float32))
