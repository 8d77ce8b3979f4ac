"""Long sums in a type too narrow for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.analysis.causes.evidence import Evidence
from parity.analysis.causes.sums import sampled_terms
from parity.analysis.causes.unit import Unit, unit_of
from parity.contenders import Contender
from parity.graph.model import Model
from tests.builders import declared, node, proto_of
from tests.causes import ORT, diagnosed, gather, saved_tensors, taken_elsewhere


@pytest.mark.parametrize(("op", "attributes"), [("ReduceSum", {"axes": [1]}), ("ReduceMean", {"axes": [1]})])
def test_a_long_sum_in_few_bits(tmp_path: Path, op: str, attributes: dict[str, Any]) -> None:
    """A runtime that adds 4096 terms one after the other in FP16 is recognised by the size of its error."""
    x = np.random.default_rng(0).random((8, 4096), np.float32)
    opset = 11
    model = Model.from_proto(proto_of([node(op, ["x"], ["t"], **attributes), node("Neg", ["t"], ["y"])],
                                      [declared("x", x.shape)], opset=opset))
    narrow = np.add.accumulate(x.astype(np.float16), axis=1, dtype=np.float16)[:, -1:].astype(np.float32)
    scale = np.float32(1 if op == "ReduceSum" else 1 / 4096)
    tensors = taken_elsewhere(model, {"x": x}, "t", lambda t: narrow * scale * np.float32(1.00001))
    found = diagnosed(model, saved_tensors(tmp_path, tensors), {"x": x})
    assert [(d.cause, d.tensor) for d in found] == [("long-accumulation", "t")]
    assert found[0].evidence["terms"] == 4096


def test_a_wrong_sum_is_no_long_one(tmp_path: Path) -> None:
    """An error of another size has another cause, or none."""
    x = np.random.default_rng(0).random((8, 4096), np.float32)
    model = Model.from_proto(proto_of([node("ReduceSum", ["x"], ["t"], axes=[1]), node("Neg", ["t"], ["y"])],
                                      [declared("x", x.shape)], opset=11))
    wrong = np.linspace(0.1, 5, 8, dtype=np.float32).reshape(8, 1)
    tensors = taken_elsewhere(model, {"x": x}, "t", lambda t: t * wrong)
    assert diagnosed(model, saved_tensors(tmp_path, tensors), {"x": x}) == ()


def product(op: str, x: np.ndarray, weight: np.ndarray, **attributes: Any) -> tuple[Model, Unit]:
    """A model y = -(x * w), and the unit of its product as a sound candidate shows it."""
    model = Model.from_proto(proto_of([node(op, ["x", "w"], ["t"], **attributes), node("Neg", ["t"], ["y"])],
                                      [declared("x", x.shape)], weights={"w": weight}))
    evidence: Evidence = gather(model, Contender(ORT), {"x": x}, "off")
    unit = unit_of(evidence, evidence.of["t"])
    assert unit is not None
    return model, unit


@pytest.mark.parametrize(("op", "shape", "weight"), [
    ("Conv", (1, 64, 9, 9), (8, 64, 5, 5)), ("MatMul", (2, 9, 1600), (2, 1600, 8))])
def test_a_long_product_in_few_bits(tmp_path: Path, op: str, shape: tuple[int, ...], weight: tuple[int, ...]) -> None:
    """1600 products added one after the other in FP16, over channels and taps, or over a batch of matrices."""
    random = np.random.default_rng(0)
    x, w = random.random(shape, np.float32), random.random(weight, np.float32)
    model, unit = product(op, x, w)
    terms, _ = sampled_terms(unit, np.arange(unit.gold.size))
    assert terms is not None
    narrow = np.add.accumulate(terms.astype(np.float16), axis=1, dtype=np.float16)[:, -1].astype(np.float32)
    made = narrow.reshape(unit.gold.shape) * np.float32(1.00001)
    tensors = taken_elsewhere(model, {"x": x}, "t", lambda t: made)
    found = diagnosed(model, saved_tensors(tmp_path, tensors), {"x": x})
    assert [(d.cause, d.tensor) for d in found] == [("long-accumulation", "t")]
    assert found[0].evidence["terms"] == 1600


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.integers(0, 2), st.sampled_from([1, 2]),
       st.integers(0, 2**32 - 1))
def test_the_terms_of_a_convolution_add_up_to_it(kernel: int, stride: int, dilation: int, pad: int, group: int,
                                                 seed: int) -> None:
    """Whatever its strides, dilations, pads and groups."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(2, 4, 7, 6)).astype(np.float32)
    w = random.normal(size=(6, 4 // group, kernel, 2)).astype(np.float32)
    _, unit = product("Conv", x, w, strides=[stride, 1], dilations=[dilation, 1], pads=[pad, 1, 0, pad], group=group)
    terms, scale = sampled_terms(unit, np.arange(unit.gold.size))
    assert terms is not None
    assert scale == 1.0
    np.testing.assert_allclose(terms.sum(axis=1), unit.gold.ravel(), atol=1e-12)


@pytest.mark.parametrize(("op", "shape", "weight", "attributes"), [
    ("MatMul", (2, 3, 5), (5, 4), {}), ("MatMul", (3, 5), (2, 5, 4), {}), ("Gemm", (5, 3), (4, 5), {
        "transA": 1, "transB": 1})])
def test_the_terms_of_a_product_add_up_to_it(op: str, shape: tuple[int, ...], weight: tuple[int, ...],
                                             attributes: dict[str, Any]) -> None:
    """With a batch on either side, and with both sides transposed."""
    random = np.random.default_rng(0)
    _, unit = product(op, random.normal(size=shape).astype(np.float32), random.normal(size=weight).astype(np.float32),
                      **attributes)
    terms, _ = sampled_terms(unit, np.arange(unit.gold.size))
    assert terms is not None
    np.testing.assert_allclose(terms.sum(axis=1), unit.gold.ravel(), atol=1e-12)
