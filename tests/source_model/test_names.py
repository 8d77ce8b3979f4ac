"""Lines and module paths: read from an export, and carried over to a model that lost them."""

from __future__ import annotations

import onnx
import pytest

from parity.graph.model import Model, shallow_copy
from parity.source_model.names import names_from
from parity.source_model.place import Place, place_of, scope_path
from tests.builders import declared, node, proto_of
from tests.source_model.exports import case


@pytest.mark.parametrize(("name", "path"), [
    ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"), ("/layers.3/attn/MatMul_2", "layers.3.attn"), ("/Add", ""),
    ("Conv_12", "")])
def test_scopes_are_module_paths(name: str, path: str) -> None:
    """A container that is itself called is not counted twice."""
    assert scope_path(name) == path


def test_the_innermost_line_of_the_user_is_taken() -> None:
    """Frames of installed packages are passed over, and the line's text comes along."""
    proto = node("Relu", ["x"], ["y"])
    trace = ('File "/home/me/model.py", line 48, in forward\n    x = self.attn(x)\n'
             '  File "/env/lib/python3.11/site-packages/torch/nn/modules/activation.py", line 3, in forward\n    pass')
    for key, value in (("stack_trace", trace), ("name_scopes", "['', 'layers.3', 'layers.3.attn@1', 'relu']")):
        proto.metadata_props.add(key=f"pkg.torch.onnx.{key}", value=value)
    graph = Model.from_proto(proto_of([proto], [declared("x")], [declared("y")])).graph
    place = place_of(graph.nodes[0])
    assert (place.source, place.text, place.module) == ("/home/me/model.py:48", "x = self.attn(x)", "layers.3.attn")


def test_a_line_that_torch_wrote_itself_is_no_source() -> None:
    """What an exporter made of a context manager is code that nobody can look up."""
    proto = node("Relu", ["x"], ["y"])
    proto.metadata_props.add(key="pkg.torch.onnx.stack_trace",
                             value='File "<eval_with_key>.33", line 5, in forward\n    relu = torch.ops.aten.relu(x)')
    graph = Model.from_proto(proto_of([proto], [declared("x")], [declared("y")])).graph
    assert place_of(graph.nodes[0]) == Place()


def test_places_survive_a_model_that_was_renamed() -> None:
    """With every name gone, values and the graph bring each tensor its module."""
    original = case("custom", dynamo=False, opset=17)
    proto = shallow_copy(original.flat.proto)
    outputs = {o.name for o in proto.graph.output}
    made = {o for n in proto.graph.node for o in n.output} - outputs
    for part in proto.graph.node:
        part.name = ""
        for names in (part.input, part.output):
            names[:] = [f"renamed_{n}" if n in made else n for n in names]
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto)
    found = names_from(original.flat, Model.from_proto(proto), original.feeds[0])
    expected = {n: place_of(node).module for node in original.flat.graph.nodes for n in node.outputs}
    told = {n.removeprefix("renamed_"): p.module for n, p in found.items()}
    assert len([m for m in told.values() if m]) >= 4
    assert all(expected[n] == module for n, module in told.items())
