"""Recurrent operators against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.graph.ops.one_node import check, gradcheck, normal

TIME, BATCH, INPUT, HIDDEN = 5, 3, 4, 6
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
ACTIVATIONS = {
    "RNN": ["ScaledTanh"], "GRU": ["HardSigmoid", "LeakyRelu"], "LSTM": ["HardSigmoid", "Softsign", "Affine"]}


def inputs_of(op: str, directions: int, given: str, hidden: int = HIDDEN) -> list[np.ndarray | None]:
    """Inputs of a recurrent node; `given` names optional ones: b(ias), l(engths), s(tate), p(eepholes)."""
    gates = GATES[op] * hidden
    state = normal(directions, BATCH, hidden) if "s" in given else None
    return [
        normal(TIME, BATCH, INPUT), normal(directions, gates, INPUT) / 2, normal(directions, gates, hidden) / 2,
        normal(directions, 2 * gates) if "b" in given else None,
        np.array([5, 2, 3], np.int32) if "l" in given else None, state,
        *([None if state is None else -state, normal(directions, 3 * hidden) if "p" in given else None]
          if op == "LSTM" else [])]


def trim(inputs: list[np.ndarray | None]) -> list[np.ndarray | None]:
    """Without the omitted inputs at the end."""
    while inputs[-1] is None:
        inputs.pop()
    return inputs


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("given", ["", "b", "bs", "bl", "bls", "blsp"])
@pytest.mark.parametrize("opset", [7, 14])
def test_recurrent(op: str, direction: str, given: str, opset: int) -> None:
    """All directions, with and without biases, sequence lengths, states and peepholes."""
    inputs = trim(inputs_of(op, 1 + (direction == "bidirectional"), given))
    check(op, inputs, opset, outputs=3 if op == "LSTM" else 2, hidden_size=HIDDEN, direction=direction)


@pytest.mark.parametrize(("op", "attributes"), [
    ("RNN", {"clip": 0.5}), ("GRU", {"clip": 0.5}), ("LSTM", {"clip": 0.5}), ("LSTM", {"input_forget": 1}),
    ("GRU", {"linear_before_reset": 1}),
    ("RNN", {"activations": ["Relu"]}), ("RNN", {"activations": ["Elu"], "activation_alpha": [0.7]}),
    ("RNN", {"activations": ["ScaledTanh"], "activation_alpha": [0.8], "activation_beta": [0.6]}),
    ("GRU", {"activations": ["HardSigmoid", "LeakyRelu"], "activation_alpha": [0.3, 0.05],
             "activation_beta": [0.4]}),
    ("LSTM", {"activations": ["HardSigmoid", "Softsign", "Affine"], "activation_alpha": [0.3, 0.9],
              "activation_beta": [0.4, 0.1]}),
    ("LSTM", {"activations": ["Sigmoid", "Softplus", "ThresholdedRelu"], "activation_alpha": [0.2]})])
def test_attributes(op: str, attributes: dict[str, Any]) -> None:
    """Clipping, coupled gates, and activations with parameters of their own."""
    check(op, trim(inputs_of(op, 1, "bs")), 14, outputs=3 if op == "LSTM" else 2, hidden_size=HIDDEN, **attributes)


@pytest.mark.parametrize("op", GATES)
def test_both_directions_have_activations_of_their_own(op: str) -> None:
    """Functions and their parameters are given for one direction after the other."""
    one = {"RNN": ["Elu"], "GRU": ["Sigmoid", "Elu"], "LSTM": ["Sigmoid", "Elu", "Tanh"]}[op]
    check(op, trim(inputs_of(op, 2, "b")), 14, outputs=2, hidden_size=HIDDEN, direction="bidirectional",
          activations=one * 2, activation_alpha=[0.5, 2.0])


@pytest.mark.parametrize("op", GATES)
def test_recurrent_is_differentiable(op: str) -> None:
    """Autograd agrees with numerical gradients in inputs, weights and states."""
    inputs = [None if v is None else v[:2] if i == 0 else v for i, v in enumerate(inputs_of(op, 1, "bs", hidden=2))]
    gradcheck(op, trim(inputs), 14, outputs=2, hidden_size=2)
