"""What each layer in lower precision costs: estimated, and tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.analysis.energy import alone, energies, prices
from parity.graph.executor import Executor
from parity.graph.feeds import load_feed
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from parity.graph.survey import survey
from parity.precision.calibration import Calibration
from parity.precision.mixture import Mixture
from parity.precision.plan import Precision
from parity.precision.variant import make_variant
from tests.builders import declared, node, proto_of
from tests.models import FIXTURE_FOLDERS


def mixture_of(folder: Path, precision: Precision) -> Mixture:
    """A fixture and its variant on its own inputs."""
    model = Model.load(folder / "model.onnx")
    feed, _ = load_feed(model, [str(folder / "inputs.npz")])
    flat = survey(model, feed).flat
    return Mixture(flat, make_variant(flat, precision, Calibration.of_feeds(flat, [feed])).model, [feed])


def ranks(values: Mapping[str, float]) -> np.ndarray:
    """The rank of each value."""
    return np.argsort(np.argsort(list(values.values())))


def small(batch: int = 4, seed: int = 0, layers: int = 3) -> Mixture:
    """A perceptron in FP16 on two feeds."""
    random = np.random.default_rng(seed)
    weights = {f"w{i}": random.normal(size=(8, 8)).astype(np.float32) / 2 for i in range(layers)}
    names = ["x", *(f"t{i}" for i in range(layers))]
    nodes = []
    for i in range(layers):
        nodes += [node("MatMul", [names[i], f"w{i}"], [f"m{i}"]), node("Tanh", [f"m{i}"], [names[i + 1]])]
    nodes.append(node("Identity", [names[-1]], ["y"]))
    model = Model.from_proto(proto_of(nodes, [declared("x", (batch, 8))], [declared("y", (batch, 8))], weights))
    feeds = [{"x": random.normal(size=(batch, 8)).astype(np.float32)} for _ in range(2)]
    return Mixture(model, make_variant(model, "fp16").model, feeds)


@pytest.mark.parametrize("folder", FIXTURE_FOLDERS, ids=lambda f: f.name)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_energies_rank_layers_as_trying_does(folder: Path, precision: Precision) -> None:
    """Spearman's correlation of 16 directions with each layer tried alone is at least 0.93."""
    mixture = mixture_of(folder, precision)
    if len(mixture.layers) < 3:
        assert energies(mixture).keys() == set(mixture.layers)
        return
    one, other = ranks(energies(mixture)), ranks(alone(mixture))
    assert np.corrcoef(one, other)[0, 1] >= 0.93


def test_trying_a_layer_alone_is_what_such_a_variant_does() -> None:
    """The price of a layer is the output error of a variant made with this layer alone in FP16."""
    mixture = small()
    plan = make_variant(mixture.reference, "fp16").plan
    for layer, price in alone(mixture).items():
        variant = make_variant(mixture.reference, plan.keep([n for n in plan.nodes if n != layer])).model
        errors = []
        for feed in mixture.feeds:
            right, low = (to_numpy(Executor(m).run(feed)["y"]).astype(float) for m in (mixture.reference, variant))
            errors.append(np.sum((low - right) ** 2) / np.sum(right**2))
        assert price == pytest.approx(math.sqrt(np.mean(errors)), rel=1e-5)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6))
def test_the_energy_of_the_last_layer_is_its_error(seed: int) -> None:
    """Where nothing bends behind a layer, many directions give its squared output error."""
    mixture = small(seed=seed)
    found = energies(mixture, directions=4000, seed=seed)
    assert math.sqrt(found["t2"]) == pytest.approx(alone(mixture)["t2"], rel=0.05)


def test_rows_that_do_not_mix_make_the_estimate_sharper() -> None:
    """With 256 rows that have nothing to do with each other, 8 directions come within a tenth."""
    mixture = small(batch=256)
    truth = alone(mixture)
    for layer, energy in energies(mixture, directions=8).items():
        assert math.sqrt(energy) == pytest.approx(truth[layer], rel=0.1)


def test_rows_that_mix_are_not_taken_for_samples() -> None:
    """Where one layer adds up all rows, the errors of rows add up too, which squares of single rows would miss."""
    random = np.random.default_rng(0)
    nodes = [node("Relu", ["x"], ["a"]), node("ReduceMean", ["a"], ["m"], axes=[0], keepdims=1),
             node("Add", ["a", "m"], ["y"])]
    model = Model.from_proto(proto_of(nodes, [declared("x", (64, 4))], [declared("y", (64, 4))]))
    feed = {"x": np.full((64, 4), 1 + 2.0**-11 + 2.0**-13, np.float32) + random.integers(0, 2, (64, 4))}
    mixture = Mixture(model, make_variant(model, "fp16").model, [{"x": feed["x"].astype(np.float32)}])
    found, truth = energies(mixture, directions=2000), alone(mixture)
    assert math.sqrt(found["a"]) == pytest.approx(truth["a"], rel=0.1)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_spilling_changes_nothing(precision: Precision) -> None:
    """With no memory every tensor and adjoint goes through a file, and the energies stay the same to the bit."""
    folder = FIXTURE_FOLDERS[1]
    held = mixture_of(folder, precision)
    aside = Mixture(held.reference, held.variant, held.feeds, memory=0)
    assert not aside.base(0)
    assert energies(aside, directions=2, memory=0) == energies(held, directions=2)


def test_the_same_seed_gives_the_same_energies() -> None:
    """Directions are drawn from the seed alone."""
    assert energies(small(), seed=3) == energies(small(), seed=3)
    assert energies(small(), seed=3) != energies(small(), seed=4)


def test_a_layer_that_overflows_comes_first() -> None:
    """A product beyond FP16's range has an infinite price, tried and estimated, as has what reads it, and no other."""
    nodes = [node("Mul", ["x", "x"], ["a"]), node("Mul", ["a", "small"], ["b"]), node("Add", ["b", "x"], ["y"])]
    model = Model.from_proto(proto_of(nodes, [declared("x", (1, 4))], [declared("y", (1, 4))],
                                      {"small": np.float32(1e-3)}))
    mixture = Mixture(model, make_variant(model, "fp16").model, [{"x": np.array([[1, 2, 3, 400]], np.float32)}])
    for found in (energies(mixture), alone(mixture)):
        assert [math.isinf(found[n]) for n in ("a", "b", "y")] == [True, True, False]


def test_prices_are_tried_where_layers_are_few() -> None:
    """Up to a hundred layers the price is the truth, beyond it the root of the energy."""
    few, many = small(), small(layers=60)
    assert prices(few) == alone(few)
    assert len(many.layers) > 100
    assert prices(many) == {n: math.sqrt(e) for n, e in energies(many).items()}
