"""Tests of judging a ready-made variant by the reference's weights."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from parity.graph.constants import constant_values
from parity.graph.model import Model, shallow_copy
from parity.graph.ops.call import to_numpy
from parity.precision.calibration import Calibration
from parity.precision.reweigh import with_weights_of
from parity.precision.variant import make_variant
from tests.builders import declared, node, proto_of
from tests.models import FIXTURES, RealModel

PRECISIONS = ("fp16", "int8")


@pytest.fixture(scope="module")
def reference() -> Model:
    """The convolutional fixture."""
    return Model.load(FIXTURES / "digits_cnn" / "model.onnx")


def variant_of(model: Model, precision: str) -> Model:
    """A clean variant, calibrated on the fixture's own inputs."""
    feed = dict(np.load(RealModel(FIXTURES / "digits_cnn").inputs_path))
    assert precision in ("fp16", "int8")
    return make_variant(model, precision, Calibration.of_feeds(model, [feed])).model  # type: ignore[arg-type]


def scaled(variant: Model, gain: float, count: int) -> tuple[Model, list[str]]:
    """The variant with `count` of its stored convolution weights multiplied."""
    proto = shallow_copy(variant.proto)
    changed: list[str] = []
    for tensor in proto.graph.initializer:
        stored = tensor.data_type in (TensorProto.INT8, TensorProto.FLOAT16)
        if stored and len(tensor.dims) == 4 and len(changed) < count:
            weight = numpy_helper.to_array(tensor)
            wider = np.rint(weight * gain).clip(-128, 127) if weight.dtype == np.int8 else weight * np.float16(gain)
            tensor.CopyFrom(numpy_helper.from_array(wider.astype(weight.dtype), tensor.name))
            changed.append(tensor.name)
    return Model.from_proto(proto), changed


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_clean_variant_is_left_alone(reference: Model, precision: str) -> None:
    """Rounded weights are roundings, so nothing is replaced and nothing is said."""
    variant = variant_of(reference, precision)
    assert with_weights_of(reference, variant) == (variant, ())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_changed_weight_is_replaced_by_the_references(reference: Model, precision: str) -> None:
    """One weight off by 10 % is named, and the variant that judges holds the reference's, rounded."""
    clean = variant_of(reference, precision)
    faulty, changed = scaled(clean, 1.1, 1)
    judged, notes = with_weights_of(reference, faulty)
    assert len(notes) == 1
    assert len(changed) == 1
    node = next(n for n in judged.graph.nodes if any(i.endswith("/of_reference") for i in n.inputs))
    position = next(i for i, n in enumerate(node.inputs) if n.endswith("/of_reference"))
    right = to_numpy(constant_values(clean)[clean.graph.producer[node.outputs[0]].inputs[position]])
    found = to_numpy(constant_values(judged)[node.inputs[position]])
    assert found.dtype == right.dtype
    np.testing.assert_allclose(found, right, rtol=1e-6, atol=0)


def test_a_variant_that_was_trained_again_is_judged_by_its_own_weights(reference: Model) -> None:
    """When most weights differ they were meant to: the file's are kept, and a note says so."""
    faulty, changed = scaled(variant_of(reference, "int8"), 1.3, 99)
    judged, notes = with_weights_of(reference, faulty)
    assert judged is faulty
    assert len(changed) > 3
    assert "trained" in notes[0]


def test_a_dead_scale_rounds_to_nothing() -> None:
    """Where a scale is zero the reference's weight itself is what its channel is judged by; the others are rounded."""
    weight = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    stored = np.rint(weight / scale[:, None]).astype(np.int8)
    dead = np.where(np.arange(4) == 1, np.float32(0), scale)
    reference = Model.from_proto(proto_of([node("Gemm", ["x", "w"], ["y"], transB=1)], [declared("x", (2, 8))],
                                          weights={"w": weight}))
    nodes = [node("DequantizeLinear", ["q", "s"], ["d"], axis=0), node("Gemm", ["x", "d"], ["y"], transB=1)]
    variant = Model.from_proto(proto_of(nodes, [declared("x", (2, 8))], weights={"q": stored, "s": dead}))
    judged, notes = with_weights_of(reference, variant)
    assert len(notes) == 1
    found = to_numpy(constant_values(judged)[judged.graph.producer["y"].inputs[1]])
    np.testing.assert_array_equal(found[1], weight[1])
    np.testing.assert_allclose(found, weight, rtol=0, atol=float(scale.max()) / 2 * 1.001)


def test_an_infinite_constant_is_its_own_rounding() -> None:
    """A mask of -Inf beside ordinary weights is no weight that differs."""
    mask = np.array([0.0, -np.inf, 0.5], np.float32)
    model = Model.from_proto(proto_of([node("Add", ["x", "mask"], ["y"])], [declared("x", (2, 3))],
                                      [declared("y", (2, 3))], {"mask": mask}))
    variant = make_variant(model, "fp16").model
    assert with_weights_of(model, variant) == (variant, ())
