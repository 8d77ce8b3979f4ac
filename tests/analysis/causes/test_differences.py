"""How two weights differ, said in the simplest words that are true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from parity.analysis.causes.differences import Layout, account
from parity.graph.graph import Node
from tests.builders import node as node_of

RANDOM = np.random.default_rng(0)
MATRIX = RANDOM.normal(size=(6, 8)).astype(np.float32)
KERNEL = RANDOM.normal(size=(6, 6, 3, 3)).astype(np.float32)
TABLE = Layout(("rows", "columns"))


def layout(op: str, rank: int, position: int = 1) -> Layout:
    """The layout of an operator's weight."""
    return Layout.of(Node(node_of(op, ["x", "w"], ["y"]), 0, 18), position, rank)


def gates(value: np.ndarray, order: list[int]) -> np.ndarray:
    """Weights of an LSTM of 4 gates stacked along axis 1 in another order."""
    parts = np.split(value, value.shape[1] // 5, axis=1)
    return np.concatenate([parts[4 * (i // 4) + order[i % 4]] for i in range(len(parts))], axis=1)


@pytest.mark.parametrize(("found", "words"), [
    (MATRIX * np.float32(1.02), "times 1.02"), (-MATRIX, "with the sign turned"),
    (MATRIX + np.float32(0.5), "shifted by 0.5"), (MATRIX * 0, "all zero"),
    (MATRIX.astype(np.float16).astype(np.float32), "rounded to FP16"),
    (MATRIX[[1, 0, 2, 3, 4, 5]], "with rows 0 and 1 swapped"), (MATRIX[:, ::-1], "with columns reversed"),
    (np.roll(MATRIX, 1, 0), "with rows rolled by 1"), (MATRIX.T.reshape(6, 8), "read in the other memory order"),
    (MATRIX * (np.arange(6) != 2)[:, None].astype(np.float32), "zero in 1 of 6 rows ([2])"),
    (MATRIX * np.float32(2)**np.arange(-1, 5)[:, None], "times 0.5 to 16 in 5 of 6 rows ([0, 2, 3, 4, 5])"),
    (MATRIX + np.float32(1) * (np.arange(8) == 3), "shifted by 1 in 1 of 8 columns ([3])"),
    (MATRIX.T, "of shape [8, 6] instead of [6, 8]")])
def test_a_matrix(found: np.ndarray, words: str) -> None:
    """A factor, a shift, an order, zeros, a number a row."""
    said = account(MATRIX, found, TABLE)
    assert said.words == words
    assert said.complete


@pytest.mark.parametrize(("found", "words"), [
    (KERNEL.swapaxes(2, 3), "with height and width swapped"),
    (KERNEL.swapaxes(0, 1), "with output channels and input channels swapped"),
    (KERNEL[:, :, ::-1, ::-1], "flipped, as a convolution in the strict sense"),
    (KERNEL[:, :, ::-1], "with height 0 and 2 swapped"),
    (KERNEL[[3, 4, 5, 0, 1, 2]], "with output channels rolled by 3"),
    (KERNEL[:, [2, 1, 0, 3, 4, 5]], "with input channels 0 and 2 swapped")])
def test_a_kernel(found: np.ndarray, words: str) -> None:
    """The axes of a convolution have names."""
    assert account(KERNEL, found, layout("Conv", 4)).words == words


def test_the_axes_of_a_transposed_convolution() -> None:
    """Its first axis counts the inputs."""
    said = account(KERNEL, KERNEL[[1, 0, 2, 3, 4, 5]], layout("ConvTranspose", 4))
    assert said.words == "with input channels 0 and 1 swapped"


def test_the_gates_of_a_recurrent_operator() -> None:
    """Gates in another order, halves of a bias exchanged or zero."""
    weight, bias = (RANDOM.normal(size=s).astype(np.float32) for s in ((1, 20, 3), (1, 40)))
    order = [0, 2, 3, 1]
    assert account(weight, gates(weight, order), layout("LSTM", 3)).words == f"with gates in the order {order}"
    of_bias = layout("LSTM", 2, 3)
    assert account(bias, gates(bias, order), of_bias).words == f"with gates in the order {order}"
    halves = "with blocks of gates in the order [4, 5, 6, 7, 0, 1, 2, 3]"
    assert account(bias, np.roll(bias, 20, 1), of_bias).words == halves
    halved = np.where(np.arange(40) < 20, bias, np.float32(0))
    assert account(bias, halved, of_bias).words == "zero in the recurrent half"


def test_a_single_number_and_what_is_no_number() -> None:
    """Old and new; NaN and Inf are counted."""
    said = account(np.array(6.0), np.array(1.0), TABLE)
    assert (said.words, said.numbers) == ("of 1 instead of 6", {"constant": 6.0, "other_constant": 1.0})
    broken = MATRIX.copy()
    broken[2, 3], broken[0, 0] = np.nan, np.inf
    assert account(MATRIX, broken, TABLE).words == "with NaN or Inf in 2 of 48 elements"


def test_infinities_that_both_have() -> None:
    """A mask's infinities make nothing else look like a shift or a factor."""
    mask = np.where(np.eye(6, dtype=bool), -np.inf, MATRIX[:, :6].astype(np.float64))
    other = np.where(np.eye(6, dtype=bool), -np.inf, RANDOM.normal(size=(6, 6)))
    assert not account(mask, other, TABLE).complete
    assert account(mask, mask[[1, 0, 2, 3, 4, 5]], TABLE).words == "with rows 0 and 1 swapped"


@given(array_shapes(min_dims=1, max_dims=4, min_side=2, max_side=5), st.integers(0, 99))
def test_other_numbers_are_only_counted(shape: tuple[int, ...], seed: int) -> None:
    """A weight trained again is explained by no words that sound as if it were the same one."""
    random = np.random.default_rng(seed)
    one, other = random.normal(size=shape), random.normal(size=shape)
    said = account(one, other, Layout(tuple(map(str, range(len(shape))))))
    few = one.size < 6 or min(one.size // n for n in shape) < 4
    assert few or (not said.complete and said.words.startswith("with other values in"))


def test_a_single_element() -> None:
    """One element of a matrix is told as one, not as its row."""
    other = MATRIX.copy()
    other[2, 5] += 1
    assert account(MATRIX, other, TABLE).words.startswith("with other values in 1 of 48 elements, the first at [2, 5]")
    other[2] += np.arange(8)
    assert account(MATRIX, other, TABLE).words.startswith("with other values in 1 of 6 rows ([2]), ")


@pytest.mark.parametrize("factor", [1.1, -1.0, 0.3])
def test_a_factor_in_half_precision(factor: float) -> None:
    """What FP16 rounds twice is one factor all the same."""
    half = MATRIX.astype(np.float16)
    said = account(half, (half * np.float16(factor)).astype(np.float16), TABLE)
    assert said.words == ("with the sign turned" if factor == -1 else f"times {factor}")


def test_what_lies_within_the_slack_is_told_without_it() -> None:
    """Where rounding could have done all of it, what was done is said all the same."""
    assert account(MATRIX, MATRIX * np.float32(1.001), TABLE, 0.1).words == "times 1.001"


@given(st.floats(1.1, 10), st.integers(0, 5), st.floats(0, 0.01))
def test_slack_hides_no_order(factor: float, row: int, slack: float) -> None:
    """What rounding makes of a weight is not told as a change; what was done to it besides is."""
    noise = np.random.default_rng(1).uniform(-slack, slack, MATRIX.shape)
    rolled = account(MATRIX, np.roll(MATRIX, 1 + row % 5, 0) + noise, TABLE, 1.5 * slack + 1e-6)
    assert rolled.words.startswith("with rows ")
    scaled = account(MATRIX, MATRIX * factor + noise, TABLE, 1.5 * slack + 1e-6)
    assert scaled.numbers["factor"] == pytest.approx(factor, rel=0.02, abs=0.01)
