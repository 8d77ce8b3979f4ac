"""The findings in the model's own metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import parity
from parity.graph.model import Model
from parity.report.annotate import PREFIX, annotated
from parity.report.record import Report
from tests.builders import CommandLine
from tests.models import FIXTURES

FAULTY = FIXTURES / "digits_cnn_faulty" / "model.onnx"


@pytest.fixture(scope="module")
def report() -> Report:
    """A comparison that names a layer and its cause."""
    return parity.compare(FIXTURES / "digits_cnn" / "model.onnx", candidates=[FAULTY, "onnxruntime"])


def notes(model: Model) -> dict[str, dict[str, str]]:
    """What was written, by the node's first output."""
    return {n.output[0]: {p.key: p.value for p in n.metadata_props if p.key.startswith(PREFIX)}
            for n in model.proto.graph.node}


def test_the_first_bad_layer_and_its_cause_stand_at_its_node(report: Report) -> None:
    """Every tensor that was compared has its figures, and only the blamed one is called bad."""
    model = Model.load(FIXTURES / "digits_cnn" / "model.onnx")
    found = notes(annotated(model, report))
    candidate = report.candidates[0]
    assert candidate.first_bad is not None
    bad = [name for name, props in found.items() if any(key.endswith("first bad") for key in props)]
    assert bad == [candidate.first_bad.tensor]
    assert any("cause wrong-epsilon" in key for key in found[bad[0]])
    for layer in candidate.tensors:
        assert any(key.endswith("local error") for key in found[layer.tensor])


def test_the_model_computes_what_it_did(report: Report, tmp_path: Path) -> None:
    """Nothing but metadata changes, the file is valid, and ONNX Runtime gives the same bits."""
    path = FIXTURES / "digits_cnn" / "model.onnx"
    marked = annotated(Model.load(path), report)
    marked.save(tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    with np.load(path.parent / "inputs.npz") as arrays:
        feed = dict(arrays)
    first, second = (onnxruntime.InferenceSession(str(p)).run(None, feed) for p in (path, tmp_path / "m.onnx"))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_annotating_again_replaces_what_was_there(report: Report) -> None:
    """Figures of an earlier run do not pile up, and foreign metadata stays."""
    model = Model.load(FIXTURES / "digits_cnn" / "model.onnx")
    model.proto.graph.node[0].metadata_props.add(key="mine", value="kept")
    once = annotated(model, report)
    assert annotated(once, report).proto == once.proto
    assert ("mine", "kept") in [(p.key, p.value) for p in once.proto.graph.node[0].metadata_props]
    assert notes(model)[model.proto.graph.node[0].output[0]] == {}


def test_what_is_compared_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    """The reference's annotated copy must not take the place of a model that was given."""
    path = tmp_path / "model.onnx"
    path.write_bytes(FAULTY.read_bytes())
    monkeypatch.chdir(tmp_path)
    command = CommandLine(tmp_path / "out", monkeypatch, capsys)
    for given in (path, FAULTY.parent.parent / "digits_cnn" / "model.onnx"):
        outcome = command.compare(given, path, "--annotate", "./model.onnx")
        assert outcome.status == 2
        assert "would overwrite" in outcome.err
        assert path.read_bytes() == FAULTY.read_bytes()
