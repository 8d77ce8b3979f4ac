"""ONNX into TensorRT's network: names that lead back, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from parity.backends.trt.network import parsed, written
from parity.errors import BackendFailed
from parity.graph.model import Model
from tests.backends.trt.standin import network_of, rtx
from tests.builders import CHAIN, chain, node, proto_of
from tests.models import FIXTURES

pytestmark = pytest.mark.tensorrt


def test_nodes_are_named_by_what_they_make(tmp_path: Path) -> None:
    """Names that are empty or repeated are unique in the file that TensorRT reads; tensors keep theirs."""
    model = Model.from_proto(proto_of([node("Relu", ["x"], ["a"], name="n"), node("Exp", ["a"], ["b"], name="n"),
                                       node("Neg", ["b"], ["y"])]))
    source = written(model, tmp_path, "plain")
    found = onnx.load(source.path)
    assert [n.name for n in found.graph.node] == ["a", "b", "y"]
    assert [list(n.output) for n in found.graph.node] == [["a"], ["b"], ["y"]]
    assert [n.proto.name for n in model.graph.nodes] == ["n", "n", ""]


def test_the_digest_is_of_weights_too(tmp_path: Path) -> None:
    """Another large weight, another digest, though the ONNX file is the same; the same model, the same digest."""
    digests = []
    for name, value in (("a", 1), ("b", 1), ("c", 2)):
        weight = np.full((40, 40), value, np.float32)
        model = Model.from_proto(proto_of([node("MatMul", ["x", "w"], ["y"])], weights={"w": weight}))
        digests.append(written(model, tmp_path, name).digest)
    assert digests[0] == digests[1] != digests[2]
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "c" / "model.onnx").read_bytes()


def test_tensors_are_found_by_onnx_name(tmp_path: Path) -> None:
    """Every tensor of the chain, in order; Identity leads to the tensor that it passes on."""
    network = network_of(Model.from_proto(chain()), tmp_path)
    assert tuple(network.tensors()) == CHAIN
    model = Model.from_proto(proto_of([node("Relu", ["x"], ["a"]), node("Identity", ["a"], ["b"]),
                                       node("Exp", ["b"], ["y"])]))
    assert set(network_of(model, tmp_path).tensors()) == {"a", "b", "y"}


def test_the_network_is_strongly_typed(tmp_path: Path) -> None:
    """The precision is the model's; the builder may not choose another."""
    network = network_of(Model.load(FIXTURES / "digits_cnn" / "model.onnx"), tmp_path)
    assert network.definition.get_flag(rtx().trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


@pytest.mark.parametrize(("nodes", "words"), [
    ([node("Frobnicate", ["x"], ["y"], name="odd", domain="com.example")], r"com\.example::Frobnicate \(odd, which"),
    ([node("Relu", ["x"], ["a"]), node("StringNormalizer", ["a"], ["y"])], r"StringNormalizer \(.*which makes 'y'\)"),
])
def test_a_refusal_names_operator_and_node(nodes: list[onnx.NodeProto], words: str, tmp_path: Path) -> None:
    """The parser's own words follow, in one line, with advice."""
    model = Model.from_proto(proto_of(nodes, domains={"com.example": 1}))
    with pytest.raises(BackendFailed, match=f"refuses operator {words}") as caught:
        network_of(model, tmp_path)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    """What cannot be parsed at all is refused with what TensorRT says."""
    source = written(Model.from_proto(chain()), tmp_path, "plain")
    source.path.write_bytes(b"not a protobuf")
    with pytest.raises(BackendFailed, match=r"refuses the model: .+"):
        parsed(rtx(), source)
