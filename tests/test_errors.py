"""Errors as a reader sees them."""

from __future__ import annotations

import pytest

from parity.errors import BackendFailed


@pytest.mark.parametrize("message", ["it broke", "it broke."])
def test_a_message_and_its_hint_are_two_sentences(message: str) -> None:
    """A runtime's own words may end in a full stop; there is one all the same."""
    assert str(BackendFailed(message, "Mend it.")) == "it broke. Mend it."
    assert str(BackendFailed(message)) == message
