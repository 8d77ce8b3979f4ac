"""Tolerances as users write them, and the floors that nobody has to guess."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto

from parity.analysis.measure import METRICS, measure
from parity.analysis.tolerance import (
    DEFAULTS,
    FP32_ROUNDOFF,
    Tolerance,
    fp32_factor,
    fp32_floor,
    half_floor,
    model_precision,
    quantization_excess,
)
from parity.errors import UsageError
from parity.graph.model import Model
from tests.builders import declared, node, proto_of


@pytest.mark.parametrize(("texts", "limits"), [
    (["fp16"], {"rel_l2": 1e-2}), (["rel_l2=1e-3"], {"rel_l2": 1e-3}),
    (["rel_l2=1e-3", "cosine=0.99"], {"rel_l2": 1e-3, "cosine": 0.99}), (["int8", "rel_l2=0.2"], {"rel_l2": 0.2}),
    (["sqnr_db=-3"], {"sqnr_db": -3.0}), (["max_abs=inf"], {"max_abs": math.inf}), (["max_abs=0"], {"max_abs": 0.0}),
])
def test_what_users_write(texts: list[str], limits: dict[str, float]) -> None:
    """A precision's default, limits on metrics, and both; the last word counts."""
    parsed = Tolerance.parse(texts)
    assert parsed is not None
    assert parsed.limits == limits


def test_nothing_written_is_no_tolerance() -> None:
    """Without --tolerance each precision has its own."""
    assert Tolerance.parse([]) is None


@pytest.mark.parametrize("text", ["", "fp8", "rel_l2", "rel_l2=", "rel_l2=abc", "rel_l2=nan", "rel_l2=-1",
                                  "max_abs=-0.1", "rel_l2=1e400",
                                  "cosine=1.5", "nonsense=1", "=1", "rel_l2=1e-3=2", "fp16=1"])
def test_nonsense_is_refused_with_its_own_words(text: str) -> None:
    """The message quotes what was written, the hint shows what can be."""
    with pytest.raises(UsageError) as caught:
        Tolerance.parse([text])
    assert repr(text) in caught.value.message
    assert caught.value.hint


@given(noise=st.floats(0, 1e3))
def test_the_limit_is_never_below_the_models_noise(noise: float) -> None:
    """Ten times the noise is accepted up to where little is left in common, and the limit where that is larger."""
    assert Tolerance({"rel_l2": 1e-3}).rel_l2(noise) == max(1e-3, min(10 * noise, 0.5))
    assert Tolerance({"rel_l2": 2.0}).rel_l2(noise) == 2.0


@pytest.mark.parametrize("noise", [math.inf, math.nan])
def test_noise_that_is_no_number_raises_no_limit(noise: float) -> None:
    """Where the reference itself overflows, nothing more is accepted."""
    assert Tolerance({"rel_l2": 1e-3}).rel_l2(noise) == 1e-3


def test_every_limit_must_be_kept() -> None:
    """Of several limits one that is broken is enough to fail."""
    comparison = measure(np.array([1.0, 2.0]), np.array([1.0, 2.2]))
    assert Tolerance({"rel_l2": 0.1, "max_abs": 0.3}).passes(comparison, 0.0)
    assert not Tolerance({"rel_l2": 0.1, "max_abs": 0.1}).passes(comparison, 0.0)
    assert not Tolerance({"cosine": 0.99999}).passes(comparison, 0.0)
    assert Tolerance({"sqnr_db": 20}).passes(comparison, 0.0)
    assert not Tolerance({"sqnr_db": 21}).passes(comparison, 0.0)


@pytest.mark.parametrize("precision", list(DEFAULTS))
def test_nan_never_passes(precision: str) -> None:
    """A NaN on one side is outside every default."""
    comparison = measure(np.array([1.0, 2.0]), np.array([1.0, np.nan]))
    assert not DEFAULTS[precision].passes(comparison, 0.0)
    assert DEFAULTS[precision].passes(measure(np.ones(2), np.ones(2)), 0.0)


def test_defaults_grow_as_precision_falls() -> None:
    """A narrower format is allowed more, and only metrics that exist are limited."""
    limits = [DEFAULTS[p].limits["rel_l2"] for p in ("fp64", "fp32", "fp16", "bf16", "int8")]
    assert limits == sorted(limits)
    assert all(t.limits.keys() <= METRICS.keys() for t in DEFAULTS.values())


RELU = [node("Relu", ["x"], ["y"])]
NARROWED = [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("Relu", ["h"], ["y"])]
ROUNDED = [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)]
QUANTISED = [node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["y"])]


@pytest.mark.parametrize(("nodes", "kind", "expected"), [
    (RELU, TensorProto.FLOAT, "fp32"), (RELU, TensorProto.FLOAT16, "fp16"), (RELU, TensorProto.BFLOAT16, "bf16"),
    (RELU, TensorProto.DOUBLE, "fp32"), (NARROWED, TensorProto.FLOAT, "fp16"), (ROUNDED, TensorProto.FLOAT, "fp32"),
    (QUANTISED, TensorProto.FLOAT, "int8"),
])
def test_what_a_model_computes_in(nodes: list[NodeProto], kind: int, expected: str) -> None:
    """The lowest precision that a model holds decides which default applies."""
    proto = proto_of(nodes, [declared("x", (2, 3), kind)], [declared("y", None, kind)], {"s": np.float32(0.1)})
    assert model_precision(Model.from_proto(proto)) == expected


@pytest.mark.parametrize(("op", "elements_in", "elements_out", "largest", "expected"), [
    ("MatMul", 10**6, 10, 10, 32.0), ("ReduceMean", 10**6, 1, 1, 4000.0), ("ReduceSum", 4, 4, 4, 64.0),
    ("GlobalAveragePool", 49 * 512, 512, 512, 64.0), ("AveragePool", 10**4, 0, 1, 400.0),
    ("Resize", 100, 400, 400, 800.0), ("Resize", 4, 8, 8, 32.0),
])
def test_how_much_an_operator_may_round(op: str, elements_in: int, elements_out: int, largest: int,
                                        expected: float) -> None:
    """Reductions may round with the root of what they add, Resize with its largest dimension."""
    assert fp32_factor(op, elements_in, elements_out, largest) == pytest.approx(expected)


@given(noise=st.floats(0, 1), norm=st.floats(0, 1e6), elements=st.integers(0, 10**6))
def test_the_fp32_floor_is_monotone_and_positive(noise: float, norm: float, elements: int) -> None:
    """A floor never falls as noise, norm or size grows, and a bounded function's is never lower."""
    floor = fp32_floor(32, noise, norm, elements, bounded=False)
    assert floor >= 32 * max(noise, FP32_ROUNDOFF * norm)
    assert fp32_floor(32, 2 * noise, norm, elements, bounded=False) >= floor
    assert fp32_floor(32, noise, norm, elements, bounded=True) >= floor
    assert fp32_floor(32, 0, 0, 1, bounded=False) > 0


def test_the_half_floor_takes_the_largest_reason() -> None:
    """Format noise, perturbed inputs, the format's own step or its smallest number: whichever is most."""
    from parity.analysis.tolerance import HALF_FORMATS

    form = HALF_FORMATS["float16"]
    assert half_floor(form, 3.0, 1.0, 1.0, 4) == 24.0
    assert half_floor(form, 1.0, 3.0, 1.0, 4) == 24.0
    assert half_floor(form, 0.0, 0.0, 4096.0, 4) == 8.0
    assert half_floor(form, 0.0, 0.0, 0.0, 4) == 8 * 2.0**-25


@given(st.lists(st.floats(-127, 127), min_size=1, max_size=20))
def test_rounding_to_the_nearest_has_no_excess(values: list[float]) -> None:
    """Whatever was quantised right lies within half a step; one step more is an excess of at least one half."""
    unrounded = np.array(values)
    assert quantization_excess(unrounded, np.rint(unrounded).astype(np.int32)) <= 1e-12
    assert quantization_excess(unrounded, np.rint(unrounded).astype(np.int32) + 1) >= -1e-12
    assert quantization_excess(unrounded, np.rint(unrounded).astype(np.int32) + 2) >= 1 - 1e-12


def test_an_empty_tensor_has_no_excess() -> None:
    """Nothing was rounded, so nothing was rounded wrong."""
    assert quantization_excess(np.empty(0), np.empty(0, np.int8)) == -0.5
