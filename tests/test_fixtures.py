"""The committed fixtures are what their TRUTH.json and PLANTED.json say they are."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
SOUND = ("digits_cnn", "digits_transformer", "digits_rnn")
FAULTY = "digits_cnn_faulty"
EVERY = (*SOUND, FAULTY)

Arrays = dict[str, NDArray[np.generic]]


def model_of(name: str) -> onnx.ModelProto:
    """The model of a fixture."""
    return onnx.load(FIXTURES / name / "model.onnx")


def arrays_of(name: str, kind: str) -> Arrays:
    """All arrays in one of a fixture's .npz files."""
    with np.load(FIXTURES / name / f"{kind}.npz", allow_pickle=False) as archive:
        return dict(archive)


def record_of(name: str, kind: str) -> dict[str, object]:
    """One of a fixture's JSON files."""
    record: dict[str, object] = json.loads((FIXTURES / name / f"{kind}.json").read_text())
    return record


def number(record: dict[str, object], key: str) -> float:
    """A number out of a JSON record."""
    value = record[key]
    assert isinstance(value, (int, float))
    return float(value)


def run(model: onnx.ModelProto, feed: Arrays, *watched: str) -> dict[str, NDArray[np.float32]]:
    """Outputs and watched tensors from ONNX Runtime's CPU, graph optimisations off."""
    ort = pytest.importorskip("onnxruntime")
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in watched)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, feed), strict=True))


def rel_l2(candidate: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Relative L2 distance, the norms in float64."""
    difference = candidate.astype(np.float64) - reference
    return float(np.linalg.norm(difference) / np.linalg.norm(reference.astype(np.float64)))


def ops_of(name: str) -> set[str]:
    """The operators that occur in a fixture's graph."""
    return {node.op_type for node in model_of(name).graph.node}


@pytest.mark.parametrize("name", EVERY)
def test_model_is_valid_small_and_self_contained(name: str) -> None:
    """The full checker passes, the file is under 1 MB, and no weight lies outside it."""
    path = FIXTURES / name / "model.onnx"
    model = model_of(name)
    onnx.checker.check_model(model, full_check=True)
    assert path.stat().st_size < 1_000_000
    assert all(i.data_location == onnx.TensorProto.DEFAULT for i in model.graph.initializer)


@pytest.mark.parametrize("name", EVERY)
def test_model_is_the_one_its_truth_describes(name: str) -> None:
    """TRUTH.json holds the hash of the very file beside it."""
    content = (FIXTURES / name / "model.onnx").read_bytes()
    assert hashlib.sha256(content).hexdigest() == record_of(name, "TRUTH")["sha256"]


@pytest.mark.parametrize("name", EVERY)
def test_arrays_match_the_model(name: str) -> None:
    """Inputs and expected outputs carry the graph's names, 64 images each, and a label for every one."""
    model = model_of(name)
    feed, expected, labels = (arrays_of(name, kind) for kind in ("inputs", "expected", "labels"))
    assert set(feed) == {value.name for value in model.graph.input}
    assert set(expected) == {value.name for value in model.graph.output}
    assert {len(a) for a in (*feed.values(), *expected.values(), *labels.values())} == {64}
    assert labels["labels"].dtype == np.int64


@pytest.mark.parametrize("name", EVERY)
def test_onnx_runtime_reproduces_expected_outputs(name: str) -> None:
    """The recorded logits come back, to what another CPU's order of summation may change."""
    logits = run(model_of(name), arrays_of(name, "inputs"))["logits"]
    expected = arrays_of(name, "expected")["logits"].astype(np.float32)
    assert rel_l2(logits, expected) <= 1e-5


@pytest.mark.parametrize("name", EVERY)
def test_accuracy_on_the_committed_labels(name: str) -> None:
    """The committed images are classified as well as TRUTH.json says, to its fourth decimal."""
    logits = run(model_of(name), arrays_of(name, "inputs"))["logits"]
    right = logits.argmax(axis=1) == arrays_of(name, "labels")["labels"]
    assert right.mean() >= number(record_of(name, "TRUTH"), "shown_accuracy_fp32") - 5e-5


@pytest.mark.parametrize(("name", "least"), [("digits_cnn", 0.97), ("digits_transformer", 0.95), ("digits_rnn", 0.95)])
def test_networks_are_trained(name: str, least: float) -> None:
    """Over the whole held-out set the accuracy is that of a network which has learned the task."""
    assert number(record_of(name, "TRUTH"), "test_accuracy_fp32") >= least


@pytest.mark.parametrize("name", SOUND)
def test_batch_is_dynamic(name: str) -> None:
    """One image alone gives the logits that it gives among the 64."""
    alone = {key: value[:1] for key, value in arrays_of(name, "inputs").items()}
    expected = arrays_of(name, "expected")["logits"][:1].astype(np.float32)
    assert rel_l2(run(model_of(name), alone)["logits"], expected) <= 1e-5


def test_graphs_hold_the_operators_they_are_for() -> None:
    """BatchNormalization is not folded, attention is spelt out, LSTM and GRU are nodes of their own."""
    assert {"Conv", "BatchNormalization", "Add", "MaxPool", "Gemm"} <= ops_of("digits_cnn")
    assert {"MatMul", "Softmax", "LayerNormalization", "Erf"} <= ops_of("digits_transformer")
    assert {"LSTM", "GRU"} <= ops_of("digits_rnn")
    groups = [a.i for n in model_of("digits_cnn").graph.node for a in n.attribute if a.name == "group"]
    assert max(groups) > 1


@pytest.mark.parametrize("name", EVERY)
def test_source_lines_are_relative_and_current(name: str) -> None:
    """Each stack frame names a file without a machine's path, and quotes networks.py as it stands."""
    source = (FIXTURES / "networks.py").read_text().splitlines()
    traces = [p.value for n in model_of(name).graph.node for p in n.metadata_props if "stack_trace" in p.key]
    frames = [f for t in traces for f in re.findall(r'File "([^"]+)", line (\d+), in \w+(?:\n +(.*))?', t)]
    ours = [(int(line), code) for file, line, code in frames if file == "fixtures/networks.py"]
    assert not [file for file, _, _ in frames if re.match(r"/|[A-Za-z]:|\.venv", file)]
    assert len(ours) >= 10
    assert all(source[line - 1].strip() == code for line, code in ours)


def test_twin_differs_in_exactly_one_attribute() -> None:
    """Putting the one planted epsilon back makes the twin the sound model, bit for bit."""
    planted = record_of(FAULTY, "PLANTED")
    sound, twin = model_of(str(planted["twin_of"])), model_of(FAULTY)
    (node,) = (n for n in twin.graph.node if planted["tensor"] in n.output)
    (original,) = (n for n in sound.graph.node if planted["tensor"] in n.output)
    (attribute,) = (a for a in node.attribute if a.name == planted["attribute"])
    (right,) = (a for a in original.attribute if a.name == planted["attribute"])
    assert (node.op_type, node.name) == (planted["op"], planted["node"])
    assert attribute != right
    attribute.CopyFrom(right)
    assert twin == sound


def test_planted_fault_is_subtle_and_real() -> None:
    """It moves its node's output and the logits by what is recorded, over 1e-3, and costs no accuracy."""
    planted = record_of(FAULTY, "PLANTED")
    tensor, feed = str(planted["tensor"]), arrays_of(FAULTY, "inputs")
    sound, faulty = (run(model_of(n), feed, tensor) for n in (str(planted["twin_of"]), FAULTY))
    for name, key in ((tensor, "local_rel_l2"), ("logits", "output_rel_l2")):
        distance = rel_l2(faulty[name], sound[name])
        assert distance > 1e-3
        assert distance == pytest.approx(number(planted, key), rel=0.01)
    accuracy, before = (number(record_of(n, "TRUTH"), "test_accuracy_fp32") for n in (FAULTY, str(planted["twin_of"])))
    assert accuracy == pytest.approx(before, abs=0.01)
