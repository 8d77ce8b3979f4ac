"""A model's sensitivity to the rounding of its own operators."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from onnx import helper, parser

from parity.analysis.measure import measure
from parity.analysis.noise import Movement, noise
from parity.graph.executor import Executor
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, to_numpy
from tests.graph.ops.one_node import normal

U = 2.0**-24


def model_of(text: str) -> Model:
    """A model in ONNX's textual form."""
    return Model.from_proto(parser.parse_model('<ir_version: 8, opset_import: ["": 17]>' + text))


def noise_of(model: Model, feed: dict[str, np.ndarray], seed: int = 0) -> dict[str, float]:
    """The noise of a model on a feed."""
    return noise(model, feed, {n: to_numpy(v) for n, v in Executor(model).run(feed).items()}, seed)


def moved(op: str, value: torch.Tensor) -> torch.Tensor:
    """What a movement makes of the output of one operator."""
    node = Node(helper.make_node(op, ["x"], ["y"]), 0, 17)
    [found] = Movement(0)(node, [], [value])
    assert isinstance(found, torch.Tensor)
    assert found.dtype == value.dtype
    assert found.shape == value.shape
    return found


@pytest.mark.parametrize(("dtype", "roundoff"), [
    (torch.float64, 2.0**-53), (torch.float32, 2.0**-24), (torch.float16, 2.0**-11), (torch.bfloat16, 2.0**-8)])
def test_arithmetic_moves_within_one_rounding(dtype: torch.dtype, roundoff: float) -> None:
    """Elements move, none by more than u of itself (one unit in the last place once rounded again)."""
    value = torch.from_numpy(normal(1000)).to(dtype)
    distance = (moved("Mul", value).double() - value.double()).abs()
    assert (distance > 0).any()
    assert (distance <= 2 * roundoff * value.double().abs()).all()


def test_bounded_functions_move_within_one_rounding_of_their_bound() -> None:
    """Small scores move by as much as large ones, and stay between the bounds."""
    value = torch.cat([torch.full((500,), 1e-9), torch.rand(500, generator=torch.Generator().manual_seed(0))])
    found = moved("Sigmoid", value)
    distance = (found.double() - value.double()).abs()
    assert distance[:500].max() > U / 2
    assert distance.max() <= 2 * U
    assert found.min() >= 0
    assert found.max() <= 1
    assert (moved("Tanh", -value)[:500] < -U / 2).any()


@pytest.mark.parametrize(("op", "value"), [
    ("Relu", torch.rand(5)), ("Transpose", torch.rand(2, 3)), ("Mul", torch.arange(6.0)), ("Add", torch.arange(3)),
    ("Add", torch.tensor([True])), ("Mul", torch.zeros(0, 3))])
def test_what_is_exact_stays(op: str, value: torch.Tensor) -> None:
    """Data movement, whole numbers, integers, booleans and nothing at all do not move."""
    assert torch.equal(moved(op, value), value)


def test_tensors_longer_than_the_random_numbers() -> None:
    """A long tensor moves all over."""
    value = torch.full((3_000_001,), 1.5)
    assert (moved("Add", value)[-1000:] != 1.5).any()


ROOT_OF_SCORES = """
g (float[n] a, float[n] b) => (float[n] y) { p = Sigmoid(a) q = Sigmoid(b) r = Mul(p, q) y = Sqrt(r) }
"""


def test_a_root_of_tiny_scores_is_noisy() -> None:
    """A kernel's absolute error of 0.6 u on tiny scores is covered by the noise, not by FP32 against FP64."""
    model = model_of(ROOT_OF_SCORES)
    feed = {"a": normal(500) - 16, "b": normal(500, seed=1)}
    found = noise_of(model, feed)["y"]
    gold = to_numpy(Executor(model, Arithmetic.DOUBLE).run(feed)["y"])
    declared = measure(gold, to_numpy(Executor(model).run(feed)["y"])).rel_l2
    shift = 0.6 * U * np.sign(normal(500, seed=2)).astype(np.float64)
    p, q = (1 / (1 + np.exp(-feed[n].astype(np.float64))) for n in "ab")
    other = measure(gold, np.sqrt(np.clip(p + shift, 0, 1) * q)).rel_l2
    assert other > 100 * declared
    assert other / 10 < found < 10 * other


def test_ordinary_models_are_hardly_noisier_than_fp32_itself() -> None:
    """Where nothing amplifies rounding, the noise is a few roundings, and of a scale with FP32 against FP64."""
    model = model_of("g (float[20, 30] a, float[30, 20] b) => (float[20, 20] y) { m = MatMul(a, b) y = Tanh(m) }")
    feed = {"a": normal(20, 30), "b": normal(30, 20)}
    gold = to_numpy(Executor(model, Arithmetic.DOUBLE).run(feed)["y"])
    declared = measure(gold, to_numpy(Executor(model).run(feed)["y"])).rel_l2
    assert declared <= noise_of(model, feed)["y"] <= 10 * declared < 1e-5


def test_noise_is_seeded() -> None:
    """The same seed gives the same bits, another seed others."""
    model, feed = model_of(ROOT_OF_SCORES), {"a": normal(50) - 16, "b": normal(50, seed=1)}
    assert noise_of(model, feed) == noise_of(model, feed)
    assert noise_of(model, feed) != noise_of(model, feed, seed=7)


def test_sizes_do_not_move() -> None:
    """Sizes that a model computes in floating point are whole numbers, and the model still runs."""
    model = model_of("""
    g (float[2, 6] x) => (float[n, m] y) {
        shape = Shape(x)
        real = Cast <to = 1> (shape)
        half = Constant <value = float[2] {0.5, 2.0}> ()
        scaled = Mul(real, half)
        size = Cast <to = 7> (scaled)
        y = Reshape(x, size)
    }
    """)
    assert noise_of(model, {"x": normal(2, 6)}) == {"y": 0.0}


def test_a_choice_that_rounding_decides_is_infinitely_noisy() -> None:
    """Where moved values change the shape of an output, no distance can be told."""
    model = model_of("""
    g (float[n] a) => (int64[k, m] y) {
        e = Exp(a)
        f = Log(e)
        c = Equal(f, a)
        y = NonZero(c)
    }
    """)
    assert noise_of(model, {"a": normal(1000)})["y"] == math.inf
