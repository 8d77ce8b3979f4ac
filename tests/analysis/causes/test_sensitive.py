"""One layer of many that makes the error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from parity.analysis.causes.sensitive import sensitive
from parity.contenders import Contender
from parity.graph.model import Model
from parity.targets import Target
from tests.builders import declared, node, proto_of
from tests.causes import diagnosed, gather

RANDOM = np.random.default_rng(0)
INT8 = Contender(Target("pytorch", "", "int8"))
WAVES = np.exp(2j * np.pi * np.outer(np.arange(64), np.arange(32)) / 64)
WEIGHTS = {"f": np.concatenate([WAVES.real, WAVES.imag], axis=1).astype(np.float32), "eps": np.float32(1e-6),
           "two": np.float32(2), "axes": np.array([1]),
           **{n: (RANDOM.normal(size=s) / np.sqrt(s[0])).astype(np.float32)
              for n, s in {"u": (32, 32), "v": (32, 16)}.items()}}
# A transform, the logarithm of its power, less its mean, and two layers more.
SPECTRUM = Model.from_proto(proto_of(
    [node("MatMul", ["x", "f"], ["s"]), node("Split", ["s"], ["re", "im"], axis=1, num_outputs=2),
     node("Pow", ["re", "two"], ["re2"]), node("Pow", ["im", "two"], ["im2"]), node("Add", ["re2", "im2"], ["power"]),
     node("Add", ["power", "eps"], ["p"]), node("Log", ["p"], ["l"]), node("ReduceMean", ["l", "axes"], ["m"]),
     node("Sub", ["l", "m"], ["c"]), node("MatMul", ["c", "u"], ["a"]), node("Relu", ["a"], ["b"]),
     node("MatMul", ["b", "v"], ["y"])], [declared("x", (16, 64))], weights=WEIGHTS, opset=18))
SMOOTH = np.cumsum(np.cumsum(RANDOM.normal(size=(16, 64)), axis=1), axis=1)
X = ((SMOOTH - SMOOTH.mean(axis=1, keepdims=True)) * np.hanning(64)).astype(np.float32)


def test_a_transform_before_a_logarithm() -> None:
    """The transform's own error is small, but all else in INT8 makes less: it is named, not the difference behind."""
    found = diagnosed(SPECTRUM, INT8, {"x": X})
    assert [(d.cause, d.tensor) for d in found] == [("sensitive-layer", "s")]
    numbers = found[0].evidence
    assert numbers["layers"] == 3
    assert numbers["outputs_without"] < 0.4 * numbers["outputs_error"]
    assert numbers["outputs_alone"] > 0.5 * numbers["outputs_error"]
    assert numbers["error"] < 0.1 * numbers["outputs_error"]


def test_layers_that_share_the_error_are_not_named() -> None:
    """Three products alike: none of them is the one."""
    nodes = [node("MatMul", ["x", "u"], ["a"]), node("MatMul", ["a", "u"], ["b"]), node("MatMul", ["b", "u"], ["y"])]
    model = Model.from_proto(proto_of(nodes, [declared("x", (4, 32))], weights={"u": WEIGHTS["u"]}))
    evidence = gather(model, INT8, {"x": RANDOM.normal(size=(4, 32)).astype(np.float32)})
    assert sensitive(replace(evidence, diverged=True)) == ()


def test_an_error_that_the_layers_do_not_make_is_not_theirs() -> None:
    """Outputs that are off by more than INT8 makes of them."""
    evidence = gather(SPECTRUM, INT8, {"x": X})
    wrong = {n: v * np.float32(9) for n, v in evidence.candidate_outputs.items()}
    assert sensitive(evidence) != ()
    assert sensitive(replace(evidence, candidate_outputs=wrong)) == ()
    assert sensitive(replace(evidence, diverged=False)) == ()
