"""Which failures are of one kind."""

from __future__ import annotations

import pytest

from parity.reduce.trials import kind_of


@pytest.mark.parametrize(("one", "other", "same"), [
    ("x died of SIGSEGV while it was running the model", "y died of SIGSEGV while it was opening the model", True),
    ("x died of SIGSEGV while it was running the model", "x died of SIGABRT while it was running the model", False),
    ("refuses the model: [ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Relu(14)",
     "NotImplemented: [ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Gelu(20)", True),
    ("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED", "[ONNXRuntimeError] : 1 : FAIL", False)])
def test_failures_of_one_kind(one: str, other: str, same: bool) -> None:
    """The signal or the status code counts, not the words around it."""
    assert (kind_of(one) == kind_of(other)) is same
