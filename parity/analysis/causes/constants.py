"""How a constant of the candidate's file differs from the one that it should hold, and what both are called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from parity.analysis.causes.attributes import cause_of, with_input
from parity.analysis.causes.differences import Account, Layout, account
from parity.analysis.causes.evidence import Bench
from parity.analysis.causes.solve import guards
from parity.analysis.causes.stored import account_of_stored, stored
from parity.analysis.causes.twins import Change, Twins, formal_name
from parity.graph.graph import Node

# Whole numbers in a list that is told as it is.
_SHORT = 8
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def other_constant(pair: Twins, position: int, ours: str, theirs: str) -> Iterator[Change]:
    """What the file has in place of one constant.

    Args:
        pair: the two nodes.
        position: at which they read it.
        ours: its name in what the candidate should run.
        theirs: its name in the candidate's file.
    """
    expected, found = pair.unit.bench.constant(ours), pair.file.constant(theirs)
    if expected is None or found is None or any(v.dtype.kind not in "fiubV" for v in (expected, found)):
        return
    name = pair.own_name(position)
    change = Change(pair.node, "weights-differ", "", "", "", lambda n: with_input(n, position, name), {name: found})
    if expected.dtype.kind in "iu" and expected.size <= _SHORT and pair.node.op not in _QUANTIZERS:
        formal = formal_name(pair.node, position)
        yield replace(change, cause=cause_of(formal), words=f"{formal} {found.tolist()} instead of {expected.tolist()}")
        return
    cause, said = _accounted(pair, position, expected, found)
    guarded = cause == "weights-differ" and expected.size == 1 and guards(pair.unit, pair.node, float(expected.max()))
    if guarded:
        said = replace(said, numbers={k.replace("constant", "epsilon"): v for k, v in said.numbers.items()})
    yield replace(change, cause="wrong-epsilon" if guarded else cause, name=_named(pair, position, theirs),
                  role="epsilon" if guarded else _role(pair.node, position, expected), words=said.words,
                  numbers=said.numbers)


def _role(node: Node, position: int, value: np.ndarray) -> str:
    """What to call a constant."""
    if node.op in _QUANTIZERS and position in (1, 2):
        return ("scale", "zero point")[position - 1]
    formal = formal_name(node, position)
    return "weight" if value.size != 1 else formal if len(formal) > 1 else "constant"


def _accounted(pair: Twins, position: int, expected: np.ndarray, found: np.ndarray) -> tuple[str, Account]:
    """The cause, and how the file's constant differs from what it should be."""
    node, layout = pair.node, Layout.of(pair.node, position, expected.ndim)
    if node.op in _QUANTIZERS and position in (1, 2):
        return _of_quantizer(node, position, expected, found, layout)
    right = _in_full(pair, position, expected)
    held = stored(pair.file, pair.operands[position][1], right)
    if held is not None:
        return account_of_stored(held, right, found, layout)
    said = account(expected, found, layout)
    mixed = None if said.complete else _taken_for(pair, found)
    return "wrong-attribute" if node.op == "Clip" else "weights-differ", said if mixed is None else mixed


def _taken_for(pair: Twins, found: np.ndarray) -> Account | None:
    """Another constant of the reference that the file's is."""
    original = pair.evidence.original
    for name in original.constants:
        value = original.constant(name)
        if value is not None and value.shape == found.shape and np.array_equal(value, found):
            return Account(f"with the values of {root_of(original, name)!r}")
    return None


def _of_quantizer(node: Node, position: int, expected: np.ndarray, found: np.ndarray,
                  layout: Layout) -> tuple[str, Account]:
    """A scale or a zero point of an activation; what is dequantised was quantised with the expected one."""
    said = account(expected, found, layout)
    cause = "wrong-scale" if position == 1 else "wrong-zero-point"
    if expected.size != 1 or found.size != 1:
        return cause, said
    old, new = float(expected.max()), float(found.max())
    by = new - old
    times = f"{new / old:.4g} times" if old else f"off by {by:.4g}"
    far = times if position == 1 else f"off by {by:+g}, one shift of the whole tensor"
    before = ", which it was quantised with" if node.op == "DequantizeLinear" else ""
    return cause, Account(f"{said.words}{before} ({far})", {**said.numbers, "off": by})


def _in_full(pair: Twins, position: int, expected: np.ndarray) -> np.ndarray:
    """The reference's own weight, of which what is expected may be a rounding."""
    value = pair.evidence.original.constant(pair.evidence.called(pair.node, position))
    return value if value is not None and value.shape == expected.shape else expected


def _named(pair: Twins, position: int, theirs: str) -> str:
    """What the constant is called in the reference's file, and in the candidate's where that is another name."""
    own, name = root_of(pair.file, theirs), pair.evidence.called(pair.node, position)
    if name not in pair.evidence.original.constants:
        return repr(own)
    name = root_of(pair.evidence.original, name)
    return repr(name) if name == own else f"{name!r} ({own!r} there)"


def root_of(bench: Bench, name: str) -> str:
    """The constant of a file that another one is computed from."""
    while name in bench.model.graph.producer:
        before = [n for n in bench.model.graph.producer[name].inputs if n]
        if not before:
            return name
        name = before[0]
    return name
