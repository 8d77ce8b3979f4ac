"""Tests of writing a model in another precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from parity.convert import Conversion, convert
from parity.errors import FeedError, OutputError, UsageError
from tests.models import FIXTURES

MODEL = FIXTURES / "digits_cnn" / "model.onnx"
INPUTS = FIXTURES / "digits_cnn" / "inputs.npz"


def logits(path: Path) -> np.ndarray:
    """What ONNX Runtime makes of the fixture's inputs with a model."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["logits"], dict(np.load(INPUTS)))[0]
    return found


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 0.01), ("int8", 0.1)])
def test_the_written_variant_runs_and_is_close(tmp_path: Path, precision: str, limit: float) -> None:
    """The file is checker-clean, ONNX Runtime runs it, and its outputs keep to the precision's tolerance."""
    out = tmp_path / "deep" / "variant.onnx"
    convert(MODEL, Conversion(precision, calibration=INPUTS), out)  # type: ignore[arg-type]
    onnx.checker.check_model(str(out), full_check=True)
    right = logits(MODEL)
    assert 0 < np.linalg.norm(logits(out) - right) <= limit * np.linalg.norm(right)
    assert [p.name for p in out.parent.iterdir()] == ["variant.onnx"]


def test_external_weights_stay_external(tmp_path: Path) -> None:
    """The weights of a model that keeps them in a file are written to a file beside the variant."""
    external = tmp_path / "in" / "model.onnx"
    external.parent.mkdir()
    onnx.save(onnx.load(str(MODEL)), str(external), save_as_external_data=True, location="w.bin", size_threshold=256)
    out = tmp_path / "out" / "half.onnx"
    convert(external, Conversion("fp16"), out)
    assert sorted(p.name for p in out.parent.iterdir()) == ["half.onnx", "half.onnx.data"]
    (tmp_path / "whole").mkdir()
    convert(MODEL, Conversion("fp16"), tmp_path / "whole" / "half.onnx")
    np.testing.assert_array_equal(logits(out), logits(tmp_path / "whole" / "half.onnx"))


def test_a_plan_decides(tmp_path: Path) -> None:
    """With a plan that keeps the head in FP32, every other node is converted and the head is not."""
    plan = tmp_path / "plan.json"
    plan.write_text('{"version": 1, "precision": "fp16", "exceptions": [{"match": "op:Gemm", "precision": "fp32"}]}')
    variant = convert(MODEL, Conversion(plan=plan), tmp_path / "half.onnx")
    kinds = {variant.plan.of(n) for n in variant.model.graph.nodes if n.op == "Gemm"}
    assert kinds == {"fp32"}
    assert {variant.plan.of(n) for n in variant.model.graph.nodes if n.op == "Relu"} == {"fp16"}


def test_seeded_ranges_are_said_to_be_indicative(tmp_path: Path) -> None:
    """Without calibration data the variant is made all the same, and says what its ranges are worth."""
    variant = convert(MODEL, Conversion("int8"), tmp_path / "int8.onnx")
    assert variant.indicative
    assert any("indicative" in note for note in variant.notes)


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    """A plan that names nobody, a missing plan, wrong samples and an unwritable place each get their own error."""
    plan = tmp_path / "plan.json"
    plan.write_text('{"precision": "fp16", "exceptions": [{"match": "nobody", "precision": "fp32"}]}')
    with pytest.raises(UsageError, match="nobody"):
        convert(MODEL, Conversion(plan=plan), tmp_path / "x.onnx")
    with pytest.raises(UsageError, match="cannot read the plan"):
        convert(MODEL, Conversion(plan=tmp_path / "none.json"), tmp_path / "x.onnx")
    np.savez(tmp_path / "wrong.npz", picture=np.zeros((1, 1, 8, 8), np.float32))
    with pytest.raises(FeedError, match="image"):
        convert(MODEL, Conversion("int8", calibration=tmp_path / "wrong.npz"), tmp_path / "x.onnx")
    with pytest.raises(OutputError, match="cannot write"):
        convert(MODEL, Conversion("fp16"), plan / "x.onnx")
    assert not list(tmp_path.glob("*.onnx"))
