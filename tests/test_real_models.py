"""The executor on trained models: what ONNX Runtime makes of real inputs, in FP32 and in FP64."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from parity.analysis.measure import measure
from parity.analysis.noise import noise
from parity.analysis.tolerance import NOISE_FACTOR
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, to_numpy
from tests.models import REAL_MODELS, RealModel

TOLERANCE = 1e-4  # relative L2

pytestmark = pytest.mark.models


def outputs(model: Model, feed: dict[str, np.ndarray], arithmetic: Arithmetic) -> dict[str, np.ndarray]:
    """What the executor makes of a feed."""
    found = Executor(model, arithmetic).run(feed)
    return {o.name: to_numpy(found[o.name]) for o in model.graph.outputs}


def test_executor_equals_onnx_runtime(real_model: RealModel) -> None:
    """Each output is within 1e-4, or ten times the model's own noise, which no trained model has over 1 %."""
    model = Model.load(real_model.path)
    feed, expected = (dict(np.load(p)) for p in (real_model.inputs_path, real_model.expected_path))
    found = {arithmetic: outputs(model, feed, arithmetic) for arithmetic in Arithmetic}
    floors = noise(model, feed, found[Arithmetic.DECLARED])
    assert max(floors.values()) < 1e-2
    assert found[Arithmetic.DECLARED].keys() == expected.keys()
    for arithmetic, values in found.items():
        for name, want in expected.items():
            got = values[name]
            assert got.shape == want.shape
            assert got.dtype == (np.float64 if arithmetic is Arithmetic.DOUBLE else want.dtype)
            assert measure(want, got).rel_l2 <= max(TOLERANCE, NOISE_FACTOR * floors[name])


@pytest.mark.parametrize("arithmetic", list(Arithmetic))
@pytest.mark.parametrize("real", [m for m in REAL_MODELS if m.name == "ultraface_qdq_int8"], ids=lambda m: m.name)
def test_quantised_tensors_are_within_one_step(real: RealModel, arithmetic: Arithmetic) -> None:
    """From ONNX Runtime's own quantised tensors to the next ones, no element is off by more than one step.

    Over the whole model single steps grow: a rounding decision changes its neighbours' in the next layer.
    """
    model = Model.load(real.path)
    graph, feed = model.graph, dict(np.load(real.inputs_path))
    names = [o for n in graph.nodes if n.op == "QuantizeLinear" for o in n.outputs if o not in model.constants]
    values = dict(zip(names, on_ort(model.watching(names), names, feed), strict=True))
    assert len(names) > 50
    for name, want in values.items():
        cut = {n: v for n, v in {**feed, **values}.items() if n != name}
        got = to_numpy(Executor(model.between(cut, [name]), arithmetic).run(cut)[name])
        assert np.abs(got.astype(int) - want.astype(int)).max() <= 1


def on_ort(model: Model, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Tensors as ONNX Runtime gives them with its optimisations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(v) for v in session.run(names, feed)]
