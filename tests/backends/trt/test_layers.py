"""The layers of an engine, from TensorRT's own words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity.backends.trt.layers import EngineTensor, Layer, layers_of
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from tests.backends.trt.standin import engine_layers
from tests.models import FIXTURES


@pytest.mark.tensorrt
def test_the_builders_list_is_read_whole(tmp_path: Path) -> None:
    """Of the convolutional fixture every node is covered, tensors have shapes and strides, the output its own name."""
    model = Model.load(FIXTURES / "digits_cnn" / "model.onnx")
    feed, _ = seeded_feed(model, 0)
    layers = engine_layers(model, feed, tmp_path)
    covered = {name for layer in layers for name in layer.covers}
    moves = {n.outputs[0] for n in model.graph.nodes if n.op == "Reshape"}
    assert {n.outputs[0] for n in model.graph.nodes if n.outputs[0] not in model.constants} - moves <= covered
    assert all(layer.reads == ("fp32",) and layer.writes == ("fp32",) for layer in layers)
    assert layers[-1].outputs == (EngineTensor("logits", (1, 10), (10, 1), "fp32"),)
    assert all(len(t.shape) == len(t.strides) for layer in layers for t in (*layer.inputs, *layer.outputs))


@pytest.mark.parametrize("separator", ["\x1e", "\x1f"])
def test_the_inspectors_json_is_read(separator: str) -> None:
    """Names of nodes are turned into their first outputs; either wording of the element type is understood."""
    metadata = separator.join(["[ONNX Layer: conv]", "[ONNX Layer: relu [odd]]"])
    entry = {"Name": "conv + relu", "LayerType": "CaskConvolution", "Metadata": metadata,
             "Inputs": [{"Name": "x", "Dimensions": [1, 3], "Format/Datatype": "Channel major FP16 format"}],
             "Constants": [{"Name": "w", "Dimensions": [3], "Strides": [1], "Datatype": "Half"}],
             "Outputs": [{"Name": "y", "Dimensions": [1, 4], "Format/Datatype": "Int8"}]}
    text = json.dumps({"Layers": [entry], "Bindings": ["x", "y"]})
    assert layers_of(text, {"conv": "c"}) == (Layer(
        "conv + relu", "CaskConvolution", ("c", "relu [odd]"), (EngineTensor("x", (1, 3), (), "fp16"),),
        (EngineTensor("w", (3,), (1,), "fp16"),), (EngineTensor("y", (1, 4), (), "int8"),)),)
    assert layers_of(text)[0].summary.reads == ("fp16",)


@pytest.mark.parametrize(("text", "names"), [
    ('{"Layers": ["conv + relu", "fc"]}', ("conv + relu", "fc")), ("no JSON", ()), ("[]", ()), ("{}", ()),
    ('{"Layers": null}', ()), ('{"Layers": [1]}', ()), ('{"Layers": []}', ()),
])
def test_what_an_engine_does_not_tell(text: str, names: tuple[str, ...]) -> None:
    """Names alone, where it was built without details; nothing, where the text is something else."""
    assert tuple(layer.name for layer in layers_of(text)) == names


@pytest.mark.parametrize(("words", "kind"), [
    ("Row major linear FP32", "fp32"), ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
    ("BFloat16", "bf16"), ("Half", "fp16"), ("FP8", "fp8"), ("Float", "fp32"), ("Int32", ""), ("Bool", ""), ("", ""),
])
def test_element_types_in_tensorrts_words(words: str, kind: str) -> None:
    """Types that nothing is computed on in floating point or INT8 are left out."""
    text = json.dumps({"Layers": [{"Name": "l", "Inputs": [{"Name": "x", "Datatype": words}]}]})
    assert layers_of(text)[0].inputs[0].kind == kind
