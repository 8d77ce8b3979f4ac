"""Tests of the configuration for training: torch's is run on the networks that the fixtures came from."""

from __future__ import annotations

import ast
import warnings
from fnmatch import fnmatch
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fixtures.networks import DigitsCNN, DigitsTransformer
from parity.fixes.training import Origin, origin, training
from parity.graph.model import Model
from tests.builders import node, proto_of
from tests.models import FIXTURES

CNN = Model.load(FIXTURES / "digits_cnn" / "model.onnx")
TRANSFORMER = Model.load(FIXTURES / "digits_transformer" / "model.onnx")
FIXTURE = {"digits_cnn": (CNN, DigitsCNN, (2, 1, 8, 8)),
           "digits_transformer": (TRANSFORMER, DigitsTransformer, (2, 8, 8))}
WEIGHTED = {name: [n.outputs[0] for n in model.graph.nodes if n.op in {"Conv", "Gemm", "MatMul"}
                   and any(i in model.graph.initializers for i in n.inputs[1:2])]
            for name, (model, _, _) in FIXTURE.items()}


def module_by_weights(model: Model, tensor: str) -> str:
    """The module that a layer's weight or bias belongs to, as the exporter names them: "head.weight"."""
    made = model.graph.producer[tensor]
    readers = model.graph.readers.get(tensor, ())
    names = [i for n in (made, *readers) for i in n.inputs if i.endswith((".weight", ".bias"))]
    return names[0].rpartition(".")[0]


@pytest.mark.parametrize("name", FIXTURE)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_torch_trains_exactly_the_modules_of_these_layers(name: str, data: st.DataObject) -> None:
    """Run as it is written: these modules round their weights and inputs, and no others do."""
    model, network, shape = FIXTURE[name]
    layers = data.draw(st.lists(st.sampled_from(WEIGHTED[name]), min_size=1, max_size=4, unique=True))
    prepared = run(training(model, layers)["torch"], network().train(), torch.zeros(shape))
    rounding = {path.removesuffix(".weight_fake_quant") for path, _ in prepared.named_modules()
                if path.endswith(".weight_fake_quant")}
    assert rounding == {origin(model.graph.producer[layer]).path for layer in layers}
    inputs = [n for n in prepared.graph.nodes if n.target in rounding]
    assert len(inputs) == len(rounding)
    assert all(str(n.args[0].target).startswith("activation_post_process") for n in inputs)


def run(text: str, network: nn.Module, x: torch.Tensor) -> Any:
    """What the torch configuration makes of a network."""
    scope = {"network": network, "example_inputs": (x,)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that torch.ao.quantization moves to torchao
        exec(compile(text, "training", "exec"), scope)  # noqa: S102
    return scope["prepared"]


@pytest.mark.parametrize("name", FIXTURE)
def test_a_node_comes_from_the_module_whose_weights_it_reads(name: str) -> None:
    """The module that the metadata names is the one after which the node's weight, or the bias behind it, is called."""
    model, _, _ = FIXTURE[name]
    for tensor in WEIGHTED[name]:
        assert module_by_weights(model, tensor) == origin(model.graph.producer[tensor]).path


@pytest.mark.parametrize("name", FIXTURE)
@given(data=st.data())
def test_model_optimizer_enables_only_these_modules(name: str, data: st.DataObject) -> None:
    """Entries are applied in order, the last that matches a quantiser's name decides."""
    model, network, _ = FIXTURE[name]
    layers = data.draw(st.lists(st.sampled_from(WEIGHTED[name]), min_size=1, max_size=4, unique=True))
    text = training(model, layers)["Model Optimizer"]
    (config,) = (ast.literal_eval(s.value) for s in ast.parse(text).body
                 if isinstance(s, ast.Assign) and isinstance(s.value, ast.Dict))
    enabled = set()
    for path, module in network().named_modules():
        for quantizer in ("weight_quantizer", "input_quantizer", "output_quantizer"):
            matching = [e for e in config["quant_cfg"] if fnmatch(f"{path}.{quantizer}", e["quantizer_name"])]
            if isinstance(module, nn.Conv2d | nn.Linear) and matching[-1].get("enable", True):
                enabled.add((path, quantizer))
                assert matching[-1]["cfg"] == {"num_bits": 8, "axis": 0 if quantizer == "weight_quantizer" else None}
    paths = {origin(model.graph.producer[layer]).path for layer in layers}
    assert enabled == {(p, q) for p in paths for q in ("weight_quantizer", "input_quantizer")}


def test_what_no_module_computes_is_a_comment() -> None:
    """A product of two activations lies in its module's forward, an Add behind a Linear belongs to the Linear."""
    product = next(n for n in TRANSFORMER.graph.nodes
                   if n.op == "MatMul" and not TRANSFORMER.graph.initializers.keys() & set(n.inputs))
    found = training(TRANSFORMER, [product.outputs[0], "linear"])
    for text in found.values():
        comment = f"# ONNX node {product.proto.name!r} (MatMul, makes tensor {product.outputs[0]!r}) is computed in "
        assert comment + "module 'layers.0.attention' (fixtures.networks.SelfAttention)" in text
        code = ast.unparse(ast.parse(text))
        assert "embed" in code
        assert "layers.0.attention" not in code
    assert origin(TRANSFORMER.graph.producer["linear"]) == Origin("embed", "torch.nn.modules.linear.Linear")


def test_names_of_nodes_stand_in_for_paths_in_comments_alone() -> None:
    """A file without metadata names no modules: its nodes are told, and the list is left empty."""
    model = Model.from_proto(proto_of([node("MatMul", ["x", "w"], ["y"], name="/head/MatMul")],
                                      weights={"w": np.ones((3, 3), np.float32)}))
    for text in training(model, ["y"]).values():
        assert "# ONNX node '/head/MatMul' (MatMul, makes tensor 'y'): the file does not say" in text
        assert "'/head/MatMul'" not in ast.unparse(ast.parse(text))
    assert training(model, []) == training(model, ["no such tensor"]) == {}


def test_transposed_convolutions_have_another_axis_and_no_form_in_torch() -> None:
    """Output channels are their weights' second axis; torch rounds no such weights in training."""
    made = node("ConvTranspose", ["x", "w"], ["y"], name="up")
    made.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'up', 'conv_transpose2d']")
    made.metadata_props.add(key="pkg.torch.onnx.class_hierarchy",
                            value="['Net', 'torch.nn.modules.conv.ConvTranspose2d', 'aten.convolution.default']")
    model = Model.from_proto(proto_of([made], weights={"w": np.ones((3, 2, 2, 2), np.float32)}))
    found = training(model, ["y"])
    assert '{"quantizer_name": "up.weight_quantizer", "cfg": {"num_bits": 8, "axis": 1}}' in found["Model Optimizer"]
    assert "# ONNX node 'up'" in found["torch"]
    assert '"up",' not in found["torch"]


@given(st.text(max_size=12), st.text(max_size=12))
def test_metadata_of_another_form_says_nothing(scopes: str, classes: str) -> None:
    """Only what torch.onnx writes is read."""
    made = onnx.helper.make_node("Relu", ["x"], ["y"])
    made.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    made.metadata_props.add(key="pkg.torch.onnx.class_hierarchy", value=classes)
    assert origin(Model.from_proto(proto_of([made])).graph.nodes[0]) == Origin(None)
