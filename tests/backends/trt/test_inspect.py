"""What an engine hides, what of it can be seen, and in which precision it runs: on engines that TensorRT built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parity.backends.trt.inspect import notes_on, regions, surfacing, wider_than_asked
from parity.backends.trt.layers import EngineTensor, Layer
from parity.backends.trt.session import same_shape
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.precision.plan import Precision
from tests.backends.trt.standin import engine_layers, network_of
from tests.builders import chain, node, proto_of
from tests.engines import subject
from tests.models import FIXTURES

CNN = FIXTURES / "digits_cnn"


def widened(tensors: tuple[EngineTensor, ...]) -> tuple[EngineTensor, ...]:
    """The same in FP32."""
    return tuple(replace(t, kind="fp32") for t in tensors)


@pytest.mark.tensorrt
def test_fused_nodes_are_named(tmp_path: Path) -> None:
    """Conv, BatchNormalization and Relu run as one layer that hides what is between them; their output it writes."""
    model = Model.load(CNN / "model.onnx")
    feed, _ = seeded_feed(model, 0)
    found = regions(engine_layers(model, feed, tmp_path), model)
    first = found[0]
    assert first.nodes == ("conv2d", "getitem", "relu")
    assert first.hidden == ("conv2d", "getitem")
    ops = {"".join(model.graph.producer[n].op[0] for n in region.nodes) for region in found}
    assert "CBAR" in ops  # with the residual Add
    assert "16 tensors" in notes_on(engine_layers(model, feed, tmp_path), model)[0]


@pytest.mark.tensorrt
def test_marked_outputs_are_not_hidden(tmp_path: Path) -> None:
    """Once they are marked as outputs, the tensors inside a fused layer are written by it."""
    model = Model.load(CNN / "model.onnx")
    feed, _ = seeded_feed(model, 0)
    marked = ["conv2d", "getitem"]
    layers = engine_layers(model, feed, tmp_path, marked, "outputs")
    assert not set(marked) & {name for region in regions(layers, model) for name in region.hidden}
    assert set(marked) <= {t.name for layer in layers for t in layer.outputs}


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_surfaces_is_what_no_layer_hides(precision: Precision, tmp_path: Path) -> None:
    """Each tensor that surfaces is written by a layer that covers its node, and is not hidden; so are the outputs."""
    model, feed = subject(CNN, precision, tmp_path)
    layers = engine_layers(model, feed, tmp_path)
    found = surfacing(layers, model)
    hidden = {name for region in regions(layers, model) for name in region.hidden}
    assert not hidden & found.keys()
    assert found["logits"].name == "logits"
    assert len(found) >= 8
    for name, tensor in found.items():
        layer = next(layer for layer in layers if tensor in layer.outputs)
        assert model.graph.producer[name].outputs[0] in layer.covers


@pytest.mark.tensorrt
def test_padded_tensors_are_not_taken_for_the_models(tmp_path: Path) -> None:
    """For INT8 the engine pads the image's channel to four and skips a reshape; in FP32 shapes are the model's own."""
    counts = []
    for precision in ("fp32", "int8"):
        model, feed = subject(CNN, precision, tmp_path)
        found = surfacing(engine_layers(model, feed, tmp_path), model)
        network = network_of(model, tmp_path)
        tensors = network.tensors()
        odd = {name for name, tensor in found.items() if not same_shape(tensor, tensors[name])}
        counts.append((len(found) > 8, odd))
    assert counts == [(True, set()), (True, {"image_QuantizeLinear_Output", "view_QuantizeLinear_Output"})]


def test_half_a_node_does_not_surface() -> None:
    """Where a second layer adds the bias, the product before it is not the node's tensor."""
    model = Model.from_proto(proto_of([node("Relu", ["x"], ["a"]), node("Exp", ["a"], ["y"])]))
    half, whole, last = (EngineTensor(n, (2, 3), (3, 1), "fp32") for n in ("half", "whole", "y"))
    layers = (Layer("1", covers=("a",), outputs=(half,)), Layer("2", covers=("a",), outputs=(whole,)),
              Layer("3", covers=("y",), outputs=(last,)))
    assert surfacing(layers, model) == {"a": whole, "y": last}
    both = (Layer("1", covers=("a", "y"), outputs=(whole, last)),)
    assert surfacing(both, model) == {}


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_granted_precision(precision: Precision, tmp_path: Path) -> None:
    """An engine in the precision that was asked for raises no note; in FP32, every node with weights is named."""
    model, feed = subject(CNN, precision, tmp_path)
    layers = engine_layers(model, feed, tmp_path)
    assert wider_than_asked(layers, model) == ()
    refused = [replace(layer, inputs=widened(layer.inputs), constants=widened(layer.constants),
                       outputs=widened(layer.outputs)) for layer in layers]
    found = wider_than_asked(refused, model)
    weighted = {n.outputs[0] for n in model.graph.nodes if n.op in ("Conv", "Gemm", "MatMul")}
    assert {g.node for g in found} >= weighted
    assert {(g.asked, g.granted) for g in found} == {(precision, "fp32")}
    assert f"asks for {precision} and runs in fp32" in notes_on(refused, model)[-1]


def test_a_plain_model_asks_for_nothing() -> None:
    """An FP32 model runs as asked in whatever it runs, and an engine without details raises no note."""
    model = Model.from_proto(chain())
    tensor = EngineTensor("t", (1,), (1,), "fp16")
    assert wider_than_asked([Layer("l", covers=("a",), inputs=(tensor,))], model) == ()
    assert notes_on([Layer("conv + relu")], model) == ()


def test_two_reads_of_one_layer() -> None:
    """A tensor that a second layer reads is not hidden, nor is a constant."""
    model = Model.from_proto(proto_of(
        [node("Add", ["w", "w"], ["k"]), node("Mul", ["x", "k"], ["a"]), node("Exp", ["a"], ["b"]),
         node("Add", ["a", "b"], ["y"])], weights={"w": np.float32(2)}))
    together = Layer("1", covers=("k", "a", "b"), outputs=(EngineTensor("t"),))
    assert regions((together, Layer("2", covers=("y",))), model) == ()
    found = regions((replace(together, covers=("k", "a", "b", "y")),), model)
    assert found[0].hidden == ("a", "b")
    assert found[0].nodes == ("k", "a", "b", "y")
