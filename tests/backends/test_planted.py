"""Planted faults: a known change, in a copy."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from parity.backends.planted import Fault
from parity.errors import ModelError
from parity.graph.model import Model
from tests.builders import chain


def doubled(proto: ModelProto) -> None:
    """Double the first weight."""
    weight = proto.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), weight.name))


def test_the_original_is_left_alone() -> None:
    """Planting returns another model; the first one still has its weight."""
    model = Model.from_proto(chain())
    before = model.proto.SerializeToString(deterministic=True)
    faulty = Fault("weight doubled", "a", doubled).plant(model)
    assert model.proto.SerializeToString(deterministic=True) == before
    np.testing.assert_array_equal(faulty.weight("w0"), 2 * model.weight("w0"))
    np.testing.assert_array_equal(faulty.weight("w1"), model.weight("w1"))


def test_a_change_that_makes_no_model_is_refused() -> None:
    """A fault after which nothing produces a tensor is no fault but a broken file."""
    model = Model.from_proto(chain())
    with pytest.raises(ModelError, match="'a'"):
        Fault("node removed", "a", lambda proto: proto.graph.node.pop(0)).plant(model)
