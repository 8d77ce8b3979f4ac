"""Weights that are not the reference's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from parity.analysis.diagnose import Diagnosis
from parity.graph.model import Model
from tests.builders import declared, node, proto_of
from tests.causes import as_if, diagnosed

RANDOM = np.random.default_rng(0)
WEIGHTS: Mapping[str, np.ndarray] = {
    "w": RANDOM.normal(size=(6, 3, 3, 3)).astype(np.float32), "b": RANDOM.normal(size=6).astype(np.float32),
    "m": RANDOM.normal(size=(8, 8)).astype(np.float32), "W": RANDOM.normal(size=(1, 16, 8)).astype(np.float32),
    "R": RANDOM.normal(size=(1, 16, 4)).astype(np.float32), "B": RANDOM.normal(size=(1, 32)).astype(np.float32)}
CONV = ("Conv", ["u", "w", "b"], (2, 3, 8, 8))
PRODUCT = ("MatMul", ["u", "m"], (4, 8))
RECURRENT = ("LSTM", ["u", "W", "R", "B"], (5, 2, 8))


def told(kind: tuple[str, list[str], tuple[int, ...]], changed: Mapping[str, np.ndarray]) -> tuple[Diagnosis, ...]:
    """What is said where a runtime computes an operator as if it had other weights."""
    op, inputs, shape = kind
    attributes: dict[str, Any] = {"hidden_size": 4} if op == "LSTM" else {}
    nodes = [node("Tanh", ["x"], ["u"]), node(op, inputs, ["t"], **attributes), node("Relu", ["t"], ["y"])]
    protos = [proto_of(nodes, [declared("x", shape)], weights={**WEIGHTS, **other}) for other in ({}, changed)]
    return diagnosed(Model.from_proto(protos[0]), as_if(protos[1]))


def _without(value: np.ndarray, channel: int, axis: int = 0) -> np.ndarray:
    kept = value.copy()
    np.moveaxis(kept, axis, 0)[channel] = 0
    return kept


def _gates(value: np.ndarray) -> np.ndarray:
    """The gates i, o, f, c in PyTorch's order i, f, c, o."""
    parts = np.split(value, len(value[0]) // 4, axis=1)
    return np.concatenate([parts[4 * (i // 4) + (0, 2, 3, 1)[i % 4]] for i in range(len(parts))], axis=1)


@pytest.mark.parametrize(("kind", "change", "words"), [
    (CONV, lambda w: {"w": w["w"] * np.float32(1.02)}, "times 1.02"),
    (CONV, lambda w: {"b": w["b"] + np.float32(0.1)}, "shifted by 0.1"),
    (CONV, lambda w: {"w": _without(w["w"], 2)}, "zero in 1 of 6 channels"),
    (CONV, lambda w: {"w": w["w"][..., ::-1, ::-1]}, "flipped"),
    (CONV, lambda w: {"w": w["w"].swapaxes(2, 3)}, "height and width swapped"),
    (CONV, lambda w: {"w": w["w"][::-1]}, "reversed along axis 0"),
    (CONV, lambda w: {"b": w["b"] * np.arange(6, dtype=np.float32)}, "shifts by channel"),
    (CONV, lambda w: {"w": w["w"] * np.linspace(0.5, 2, 6, dtype=np.float32).reshape(-1, 1, 1, 1)}, "factors"),
    (PRODUCT, lambda w: {"m": w["m"].T}, "transposed"),
    (PRODUCT, lambda w: {"m": _without(w["m"], 3, 1)}, "zero in 1 of 8 channels"),
    (RECURRENT, lambda w: {"B": w["B"] + np.float32(0.2)}, "shifted by 0.2"),
    (RECURRENT, lambda w: {"W": w["W"] * np.float32(0.9)}, "times 0.9"),
    (RECURRENT, lambda w: {"W": _gates(w["W"])}, "gates in the order"),
])
def test_a_changed_weight(kind: tuple[str, list[str], tuple[int, ...]],
                          change: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]], words: str) -> None:
    """The weight is named, how it differs, and what is left unexplained."""
    found = told(kind, {n: np.ascontiguousarray(v) for n, v in change(WEIGHTS).items()})
    assert [(d.cause, d.tensor) for d in found] == [("weights-differ", "t")]
    assert words in found[0].message
    assert "as if" in found[0].message
    assert found[0].evidence["left"] <= found[0].evidence["floor"]


def test_other_weights_altogether_have_no_name() -> None:
    """A retrained weight is explained by nothing that was tried."""
    other = np.random.default_rng(1).normal(size=(6, 3, 3, 3)).astype(np.float32)
    assert told(CONV, {"w": other}) == ()


def test_few_elements_explain_nothing() -> None:
    """A product of one row could be anything: a factor for each of its elements is no explanation."""
    other = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    assert told(("MatMul", ["u", "m"], (1, 8)), {"m": other}) == ()
