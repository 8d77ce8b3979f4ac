"""Models: what loads, what is refused and why, and the edits that let one look inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from parity.errors import ModelError
from parity.graph.graph import TensorSpec
from parity.graph.model import Model
from parity.graph.scratch import temporary_folder
from parity.graph.weights import dtype_of, read_weight

OPSET = 17


def floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    """Declare a float32 tensor."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def proto_of(nodes: Sequence[NodeProto], weights: Mapping[str, np.ndarray] | None = None, *, ir: int = 8,
             opset: int = OPSET, outputs: Sequence[str] = ("y",)) -> ModelProto:
    """A model of these nodes from input x, float32 [2, 3]."""
    tensors = [numpy_helper.from_array(w, n) for n, w in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", [floats("x", 2, 3)], [floats(o, 2, 3) for o in outputs], tensors)
    return helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)])


def run(model: Model, feed: Mapping[str, np.ndarray], path: Path | None = None) -> dict[str, np.ndarray]:
    """All outputs by ONNX Runtime, graph optimisations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    source = str(path) if path else model.proto.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


X = np.array([[-1.5, 0.25, 2.0], [3.0, -0.5, 1.0]], np.float32)
RELU_CHAIN = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Add", ["a", "w"], ["y"], name="shift")]
W = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}


def external(folder: Path, location: str, *, nbytes: int = 24, **entries: int) -> Path:
    """A model whose weight w lies in an external file of `nbytes` bytes (none is written for a negative number)."""
    proto = proto_of(RELU_CHAIN, W)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    if nbytes >= 0:
        data = W["w"].tobytes()
        (folder / location).write_bytes((data + bytes(nbytes))[:nbytes])
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_load_reads_declarations(tmp_path: Path) -> None:
    """A loaded model knows its inputs, outputs, operator sets, path and hash."""
    path = tmp_path / "m.onnx"
    path.write_bytes(proto_of(RELU_CHAIN, W).SerializeToString())
    model = Model.load(path)
    assert model.graph.inputs == (TensorSpec("x", np.dtype("float32"), (2, 3)),)
    assert [o.name for o in model.graph.outputs] == ["y"]
    assert model.opsets == {"": OPSET}
    assert model.name == str(path)
    assert model.sha256 == Model.load(str(path)).sha256
    assert len(model.sha256) == 64


def test_initializers_that_are_also_inputs_need_no_feed() -> None:
    """Old exporters list every weight among the inputs; those have a value already."""
    proto = proto_of(RELU_CHAIN, W)
    proto.graph.input.append(floats("w", 2, 3))
    assert [i.name for i in Model.from_proto(proto).graph.inputs] == ["x"]


def test_external_weight_is_mapped_read_only(tmp_path: Path) -> None:
    """External data is memory-mapped, not copied, and cannot be written through."""
    weight = Model.load(external(tmp_path, "w.bin")).weight("w")
    assert isinstance(weight, np.memmap)
    np.testing.assert_array_equal(weight, W["w"])
    with pytest.raises(ValueError, match="read-only"):
        weight[0, 0] = 1


def test_external_weight_at_an_offset(tmp_path: Path) -> None:
    """Offset and length of an external weight are honoured."""
    path = external(tmp_path, "w.bin", nbytes=-1, offset=4096, length=24)
    (tmp_path / "w.bin").write_bytes(bytes(4096) + W["w"].tobytes())
    np.testing.assert_array_equal(Model.load(path).weight("w"), W["w"])


@pytest.mark.parametrize(("nbytes", "words"), [(-1, "missing"), (23, "23 bytes, 24 are needed"), (0, "0 bytes")])
def test_external_data_missing_or_short_is_refused(tmp_path: Path, nbytes: int, words: str) -> None:
    """A data file that is absent or too short is told at load time, with the weight's name."""
    path = external(tmp_path, "w.bin", nbytes=nbytes)
    with pytest.raises(ModelError, match=words) as caught:
        Model.load(path)
    assert "'w'" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "sub/../../secret.bin"])
def test_external_data_may_not_leave_the_folder(tmp_path: Path, location: str) -> None:
    """A path out of the model's folder is refused though the file exists."""
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(ModelError, match="outside the model's folder"):
        Model.load(external(folder, location, nbytes=-1))


def test_external_data_may_not_leave_by_a_link(tmp_path: Path) -> None:
    """A symbolic link out of the model's folder is a path out of it."""
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="outside"):
        Model.load(external(folder, "w.bin", nbytes=-1))


def test_external_data_without_a_folder_is_refused(tmp_path: Path) -> None:
    """A protobuf in memory has no folder to find external weights in."""
    proto = onnx.load(str(external(tmp_path, "w.bin")), load_external_data=False)
    with pytest.raises(ModelError, match="has no folder"):
        Model.from_proto(proto)


def test_missing_file_and_non_onnx_are_refused(tmp_path: Path) -> None:
    """No file, a folder, an empty file, text and a PNG header all give a ModelError that names the path."""
    for name, content in {"empty.onnx": b"", "text.onnx": b"hello, world", "a.png": b"\x89PNG\r\n\x1a\n\0\0"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=name):
            Model.load(tmp_path / name)
    for path in (tmp_path, tmp_path / "nothing.onnx"):
        with pytest.raises(ModelError, match="no model file"):
            Model.load(path)


@given(share=st.floats(0.01, 0.9))
@settings(deadline=None, max_examples=40)
def test_truncated_inside_the_graph_is_refused(share: float) -> None:
    """A file cut anywhere inside its graph is never taken for a model."""
    data = proto_of(RELU_CHAIN, W).SerializeToString()
    with temporary_folder() as folder:
        path = Path(folder) / "cut.onnx"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ModelError):
            Model.load(path)


def test_unsorted_graph_is_sorted() -> None:
    """Nodes in any order are put so that each comes after what it reads, and the result is the same."""
    names = [f"t{i}" for i in range(6)]
    nodes = [helper.make_node("Sigmoid", [a], [b]) for a, b in zip(["x", *names], [*names, "y"], strict=True)]
    model = Model.from_proto(proto_of(nodes[::-1]))
    assert [n.outputs[0] for n in model.graph.nodes] == [*names, "y"]
    assert [n.index for n in model.graph.nodes] == list(range(7))
    cut = model.between({"x": X}, ["y"])
    np.testing.assert_array_equal(run(cut, {"x": X})["y"], run(Model.from_proto(proto_of(nodes)), {"x": X})["y"])


def test_sorted_graph_keeps_its_order() -> None:
    """Independent branches stay in the author's order."""
    nodes = [helper.make_node("Exp", ["x"], ["b"]), helper.make_node("Relu", ["x"], ["a"]),
             helper.make_node("Add", ["a", "b"], ["y"])]
    assert [n.op for n in Model.from_proto(proto_of(nodes)).graph.nodes] == ["Exp", "Relu", "Add"]


@pytest.mark.parametrize(("nodes", "words"), [
    ([helper.make_node("Add", ["x", "b"], ["a"], name="loop"), helper.make_node("Relu", ["a"], ["b"]),
      helper.make_node("Relu", ["b"], ["y"])], "cycle through node 'loop'"),
    ([helper.make_node("Relu", ["y"], ["y"])], "cycle"),
    ([helper.make_node("Add", ["x", "ghost"], ["y"])], "reads tensor 'ghost', which nothing produces"),
    ([helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Exp", ["x"], ["y"])], "'y' is produced twice"),
    ([helper.make_node("Relu", ["x"], ["z"])], "output 'y' is never produced"),
    ([helper.make_node("Relu", ["x"], ["x"]), helper.make_node("Relu", ["x"], ["y"])], "'x' is produced twice"),
])
def test_broken_graphs_are_refused(nodes: list[NodeProto], words: str) -> None:
    """Cycles, unknown names and names made twice are told by name."""
    with pytest.raises(ModelError, match=words):
        Model.from_proto(proto_of(nodes))


@pytest.mark.parametrize(("ir", "opset", "words"), [(2, 17, "IR version 2"), (8, 6, "opset 6"), (3, 1, "opset 1")])
def test_too_old_is_refused(ir: int, opset: int, words: str) -> None:
    """IR below 3 and opset below 7 are refused with the number."""
    with pytest.raises(ModelError, match=words):
        Model.from_proto(proto_of(RELU_CHAIN, W, ir=ir, opset=opset))


def test_oldest_supported_loads() -> None:
    """IR 3 with opset 7 is in."""
    assert Model.from_proto(proto_of(RELU_CHAIN, W, ir=3, opset=7)).graph.nodes[1].opset == 7


def body(nodes: Sequence[NodeProto], output: str) -> GraphProto:
    """A branch of an If."""
    return helper.make_graph(nodes, "branch", [], [floats(output, 2, 3)])


def if_model() -> Model:
    """The model a = Relu(x); If(sum(x) > 0) { a + w } else { Exp(c), c = -x made after the If }."""
    then = body([helper.make_node("Add", ["a", "w"], ["then"])], "then")
    orelse = body([helper.make_node("If", ["positive"], ["nested"], name="inner",
                                    then_branch=body([helper.make_node("Identity", ["c"], ["n1"])], "n1"),
                                    else_branch=body([helper.make_node("Exp", ["c"], ["n2"])], "n2"))], "nested")
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], name="outer", then_branch=then, else_branch=orelse),
        helper.make_node("Neg", ["x"], ["c"]),
    ]
    return Model.from_proto(proto_of(nodes, {**W, "zero": np.array(0, np.float32)}))


def test_subgraph_captures_order_and_feed_the_graph() -> None:
    """What the bodies of an If read from outside counts as read by it: order, readers and cuts respect that."""
    model = if_model()
    outer = next(n for n in model.graph.nodes if n.label == "outer")
    assert set(outer.reads) == {"positive", "a", "w", "c"}
    assert set(outer.subgraphs["else_branch"].captured) == {"positive", "c"}
    order = [n.outputs[0] for n in model.graph.nodes]
    assert order.index("c") < order.index("y")
    assert outer in model.graph.readers["c"]
    cut = model.between({"x": X}, ["y"])
    for x in (X, -X):
        expected = np.maximum(x, 0) + W["w"] if x.sum() > 0 else np.exp(-x)
        np.testing.assert_allclose(run(cut, {"x": x})["y"], expected, rtol=1e-6)


def test_between_cuts_at_what_a_body_captures() -> None:
    """A captured tensor can be given in place of what computes it."""
    cut = if_model().between({"positive": np.array(True), "a": X, "x": X}, ["y"])
    assert {i.name for i in cut.graph.inputs} == {"positive", "a", "x"}  # the other branch still needs -x
    cut = if_model().between({"positive": np.array(True), "a": X, "c": X}, ["y"])
    assert {i.name for i in cut.graph.inputs} == {"positive", "a", "c"}
    np.testing.assert_array_equal(run(cut, {"positive": np.array(True), "a": X, "c": X})["y"], X + W["w"])


def test_between_declares_what_it_is_given_and_drops_the_rest() -> None:
    """Inputs get the dtype and shape of their values, unused ones go, weights needed come along."""
    model = Model.from_proto(proto_of(RELU_CHAIN, W))
    cut = model.between({"a": X.astype(np.float64), "x": X}, ["y"])
    assert cut.graph.inputs == (TensorSpec("a", np.dtype("float64"), (2, 3)),)
    assert [n.label for n in cut.graph.nodes] == ["shift"]
    assert set(cut.graph.initializers) == {"w"}
    assert not model.between({"x": X}, ["a"]).graph.initializers


def test_between_says_what_is_missing() -> None:
    """An output that needs a tensor which is not given is refused by that tensor's name."""
    with pytest.raises(ModelError, match="'x' is neither given"):
        Model.from_proto(proto_of(RELU_CHAIN, W)).between({}, ["y"])


def test_watching_shows_tensors_and_leaves_the_original() -> None:
    """Watched tensors come out under their names beside the outputs; an output is not marked twice."""
    model = Model.from_proto(proto_of(RELU_CHAIN, W))
    watched = model.watching(["a", "y"])
    assert [o.name for o in watched.graph.outputs] == ["y", "a"]
    assert [o.name for o in model.graph.outputs] == ["y"]
    values = run(watched, {"x": X})
    np.testing.assert_array_equal(values["a"], np.maximum(X, 0))
    np.testing.assert_array_equal(values["y"], run(model, {"x": X})["y"])


def test_constants_are_what_no_input_can_change() -> None:
    """Constant nodes, weights and what they alone make are constant; random nodes and what they make are not."""
    nodes = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(X)),
        helper.make_node("Mul", ["k", "w"], ["kw"]),
        helper.make_node("RandomNormal", [], ["noise"], shape=[2, 3]),
        helper.make_node("Add", ["noise", "kw"], ["noisy"]),
        helper.make_node("Add", ["x", "kw"], ["y"]),
    ]
    assert Model.from_proto(proto_of(nodes, W)).constants == {"w", "k", "kw"}


def test_dtypes() -> None:
    """Element types map to numpy's, bfloat16 to ml_dtypes'; an unknown one is refused by number."""
    assert dtype_of(TensorProto.INT64) == np.int64
    assert dtype_of(TensorProto.BFLOAT16).name == "bfloat16"
    with pytest.raises(ModelError, match="9999"):
        dtype_of(9999)


def test_undecodable_weight_is_refused() -> None:
    """A weight whose bytes do not fill its shape is refused by name."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 3], raw_data=bytes(20))
    with pytest.raises(ModelError, match="'w' cannot be read"):
        read_weight(tensor, None)


def test_declarations_of_other_kinds() -> None:
    """A sequence has no dtype, an undeclared rank no shape, an open axis its symbol."""
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    assert TensorSpec.of(sequence) == TensorSpec("s", None, None)
    ranked = helper.make_tensor_value_info("r", TensorProto.INT64, None)
    assert TensorSpec.of(ranked) == TensorSpec("r", np.dtype("int64"), None)
    assert TensorSpec.of(floats("f", "batch", 3)).shape == ("batch", 3)


UNARY = ("Sigmoid", "Tanh", "Neg", "Relu", "Abs")
BINARY = ("Add", "Sub", "Mul", "Max")


@st.composite
def dags(draw: st.DrawFn) -> tuple[ModelProto, list[str]]:
    """A random acyclic model on float32 [2, 3] tensors, its nodes shuffled; its tensors in order."""
    names, nodes = ["x", "w"], []
    for i in range(draw(st.integers(1, 9))):
        arity = draw(st.integers(1, 2))
        op = draw(st.sampled_from(UNARY if arity == 1 else BINARY))
        nodes.append(helper.make_node(op, [draw(st.sampled_from(names)) for _ in range(arity)], [f"t{i}"]))
        names.append(f"t{i}")
    return proto_of(draw(st.permutations(nodes)), W, outputs=[names[-1]]), names[2:]


@given(case=dags(), data=st.data())
@settings(deadline=None, max_examples=60)
def test_between_computes_what_the_whole_computes(case: tuple[ModelProto, list[str]], data: st.DataObject) -> None:
    """Cut at any tensors, a random model gives bit for bit the values that it gives whole."""
    proto, tensors = case
    model = Model.from_proto(proto)
    feedable = {"x": X} if "x" in model.graph.readers else {}
    whole = run(model.between({"x": X}, tensors), feedable)
    given_names = data.draw(st.sets(st.sampled_from(tensors)))
    outputs = data.draw(st.lists(st.sampled_from(tensors), min_size=1, unique=True))
    outputs = [o for o in outputs if o not in given_names] or [tensors[-1]]
    if outputs[0] in given_names:
        given_names.remove(outputs[0])
    cut = model.between({"x": X, **{n: whole[n] for n in given_names}}, outputs)
    assert [o.name for o in cut.graph.outputs] == outputs
    feed = {i.name: {"x": X, **whole}[i.name] for i in cut.graph.inputs}
    result = run(Model.from_proto(cut.proto), feed)
    for name in outputs:
        np.testing.assert_array_equal(result[name], whole[name])


@given(case=dags(), scale=st.integers(-3, 3))
@settings(deadline=None, max_examples=25)
def test_externalised_computes_the_same(case: tuple[ModelProto, list[str]], scale: int) -> None:
    """With its large weights in a file, a random model gives the same bits, and again after a second move."""
    proto, tensors = case
    big = np.arange(3 * 500, dtype=np.float32).reshape(3, 500) * np.float32(2.0**scale)
    graph = proto.graph
    graph.node.append(helper.make_node("MatMul", [tensors[-1], "big"], ["out"]))
    graph.initializer.append(numpy_helper.from_array(big, "big"))
    del graph.output[:]
    graph.output.append(floats("out", 2, 500))
    model = Model.from_proto(proto)
    feed = {"x": X}
    with temporary_folder() as one, temporary_folder() as two:
        moved = model.externalised(Path(one))
        again = moved.externalised(Path(two))
        for folder, edited in ((one, moved), (two, again)):
            assert edited.graph.initializers["big"].data_location == TensorProto.EXTERNAL
            assert edited.graph.initializers["w"].data_location == TensorProto.DEFAULT
            np.testing.assert_array_equal(edited.weight("big"), big)
            path = Path(folder) / "model.onnx"
            edited.save(path)
            assert path.stat().st_size < big.nbytes
            np.testing.assert_array_equal(run(Model.load(path), feed, path)["out"], run(model, feed)["out"])
    assert model.graph.initializers["big"].data_location == TensorProto.DEFAULT


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int4", "bool", "float64", "int8"])
def test_externalised_keeps_every_dtype(tmp_path: Path, dtype: str) -> None:
    """Half, packed and integer weights survive the move into a file bit for bit."""
    import ml_dtypes
    target = np.dtype(getattr(ml_dtypes, dtype)) if dtype in {"bfloat16", "int4"} else np.dtype(dtype)
    weight = (np.arange(4099) % 5 - 2).astype(np.float32).astype(target)
    proto = proto_of(RELU_CHAIN, {**W, "k": weight})
    moved = Model.from_proto(proto).externalised(tmp_path)
    assert moved.graph.initializers["k"].data_location == TensorProto.EXTERNAL
    back = moved.weight("k")
    assert back.dtype == target
    np.testing.assert_array_equal(back.astype(np.float32), weight.astype(np.float32))


def test_save_and_load(tmp_path: Path) -> None:
    """A saved model loads as the same protobuf."""
    model = Model.from_proto(proto_of(RELU_CHAIN, W))
    model.save(tmp_path / "saved.onnx")
    assert Model.load(tmp_path / "saved.onnx").proto == model.proto


def test_between_cuts_between_the_outputs_of_one_node() -> None:
    """One output of a node can be given while another is computed."""
    nodes = [helper.make_node("Split", ["x"], ["s0", "s1"], axis=0), helper.make_node("Add", ["s0", "s1"], ["y"])]
    cut = Model.from_proto(proto_of(nodes, opset=13)).between({"s0": 2 * X[:1], "x": X}, ["y"])
    np.testing.assert_array_equal(run(cut, {"s0": 2 * X[:1], "x": X})["y"], 2 * X[:1] + X[1:])


@pytest.mark.parametrize(("entries", "data_type"), [
    ({"length": 4, "offset": 8}, TensorProto.FLOAT), ({"offset": -4}, TensorProto.FLOAT),
    ({"offset": "abc"}, TensorProto.FLOAT), ({}, 99)])
def test_nonsense_about_a_weight_is_refused(tmp_path: Path, entries: dict[str, int], data_type: int) -> None:
    """A length that is not the shape's, a negative or non-numeric offset, an unknown type: one clear error."""
    path = external(tmp_path, "w.bin", **entries)
    proto = onnx.load(str(path), load_external_data=False)
    proto.graph.initializer[0].data_type = data_type
    if not entries:
        proto.graph.initializer[0].data_location = TensorProto.DEFAULT
        proto.graph.initializer[0].ClearField("external_data")
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError):
        Model.load(path).weight("w")


def test_no_opset_import_is_refused() -> None:
    """Without operator set versions nobody can say what the nodes mean."""
    proto = proto_of(RELU_CHAIN, W)
    del proto.opset_import[:]
    with pytest.raises(ModelError, match="opset"):
        Model.from_proto(proto)
