"""The pieces of the page: what stands in them is escaped, and what can be typed is set as code."""

from __future__ import annotations

from parity.report import markup


def test_what_can_be_typed_is_code() -> None:
    """Backquotes become code, whose text is escaped as any other; one by itself stays."""
    assert markup.prose("`parity fix 'a<b>.onnx'` mends it.") == (
        "<code>parity fix &#x27;a&lt;b&gt;.onnx&#x27;</code> mends it.")
    assert markup.prose("a ` b") == "a ` b"
