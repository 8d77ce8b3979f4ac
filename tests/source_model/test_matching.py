"""The map: what is matched is right, twins are told apart, and what the export got wrong disagrees."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from parity.errors import ModelError
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic
from parity.source_model.loading import source_of_module
from parity.source_model.mapping import How
from parity.source_model.matching import map_tensors
from tests.builders import declared, node, proto_of
from tests.faults import all_values, faults_of, movement
from tests.source_model.exports import case, wrong_matches

# Model, and the share that the older exporter's graph is to reach.
OLDER = {"resnet": 1.0, "mobilenet": 1.0, "unet": 1.0, "vit": 0.85, "bert": 0.95, "llama": 0.85, "lstm": 0.5,
         "gru": 0.5, "custom": 0.95}


@pytest.mark.parametrize("name", OLDER)
def test_exports_of_the_older_exporter_are_mapped(name: str) -> None:
    """By values and scopes alone, most is matched, and nothing of a clean export disagrees."""
    found = case(name, dynamo=False, opset=17).mapped()
    assert found.share >= OLDER[name]
    assert found.faults == ()


@pytest.mark.parametrize("name", ["vit", "lstm", "twins", "unet"])
def test_no_match_is_wrong(name: str) -> None:
    """Every match holds with other inputs and with weights that no two layers share any more."""
    found = case(name, dynamo=False, opset=17).mapped()
    assert [m.tensor for m in wrong_matches(name, found, dynamo=False, opset=17)] == []


def test_a_dynamo_export_is_mapped_by_its_names() -> None:
    """Every tensor of a ResNet has its activation, its line, and its module."""
    found = case("resnet", dynamo=True, opset=18).mapped()
    assert found.share == 1.0
    assert found.faults == ()
    assert {m.how for m in found.matches.values()} <= {How.NAME, How.OUTPUT, How.VALUE}
    assert all(p.file.endswith("models.py") and p.text for p in found.places.values())
    assert "layer2.0.shortcut.1" in {p.module for p in found.places.values()}
    assert list(wrong_matches("resnet", found, dynamo=True, opset=18)) == []


def test_an_export_fault_disagrees_first_where_it_is() -> None:
    """Of faults planted in convolutions, each is the first tensor to disagree."""
    clean = case("resnet", dynamo=True, opset=18)
    values = all_values(clean.flat, clean.feeds[0])
    faults = [f for f in faults_of(clean.flat, values) if f.kind.startswith("Conv") and "FP16" not in f.kind
              and movement(clean.flat, f, values) > 1e-4][::9]
    assert len(faults) >= 4
    for fault in faults:
        found = clean.mapped(fault.plant(clean.flat)).fault
        assert found is not None
        assert found.begins == fault.tensor, fault.kind


def runs(model: Model, feed: Mapping[str, np.ndarray]) -> bool:
    """Whether a faulty graph runs at all."""
    try:
        Executor(model).run(feed)
    except ModelError:
        return False
    return True


@pytest.mark.parametrize(("name", "dynamo", "kind"), [
    ("vit", True, "Transpose: perm changed"), ("vit", True, "Add: bias shifted"), ("twins", True, "Gemm: alpha"),
    ("lstm", False, "LSTM: bias shifted"), ("mobilenet", False, "Conv: bias shifted"),
    ("unet", False, "Conv: bias shifted")])
def test_the_way_back_leads_to_where_a_fault_begins(name: str, dynamo: bool, kind: str) -> None:
    """Where what first disagrees comes after the fault, or nothing does, the tensor named is the faulty one."""
    clean = case(name, dynamo=dynamo, opset=18 if dynamo else 17)
    values = all_values(clean.flat, clean.feeds[0])
    faults = [f for f in faults_of(clean.flat, values) if kind in f.kind and movement(clean.flat, f, values) > 1e-4
              and runs(f.plant(clean.flat), clean.feeds[0])]
    assert faults
    for fault in faults[:2 if "perm" not in kind else 1]:
        found = clean.mapped(fault.plant(clean.flat)).fault
        assert found is not None
        assert found.begins == fault.tensor, fault.kind


def scaled(model: Model, op: str, at: int, position: int, gain: float) -> tuple[Model, str]:
    """A graph with one weight of its at-th node of a kind changed, and that node's first output."""
    changed = copy.deepcopy(model.proto)
    made = [n for n in changed.graph.node if n.op_type == op][at]
    weight = next(w for w in changed.graph.initializer if w.name == made.input[position])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(gain), weight.name))
    return Model.from_proto(changed), made.output[0]


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize(("at", "position"), [(0, 3), (1, 2)])
def test_a_fault_in_a_recurrent_layer_is_measured_in_the_order_of_its_elements(at: int, position: int,
                                                                              dynamo: bool) -> None:
    """The layer's outputs are laid out otherwise than the module's: the distance is that of the numbers alone."""
    clean = case("states", dynamo=dynamo, opset=18 if dynamo else 17)
    assert clean.mapped().fault is None
    model, tensor = scaled(clean.flat, "LSTM", at, position, 1.2)
    right, wrong = (Executor(m, Arithmetic.DOUBLE).run(clean.feeds[0], [tensor])[tensor] for m in (clean.flat, model))
    assert isinstance(right, Tensor)
    assert isinstance(wrong, Tensor)
    found = clean.mapped(model)
    assert found.fault is not None
    assert found.fault.match.tensor == tensor
    assert found.fault.match.error == pytest.approx(float((right - wrong).norm() / right.norm()), rel=0.2)
    own = model.graph.producer[tensor]
    assert set(found.fault.hidden) <= set(own.reads)  # nothing of the other layer
    assert all(found.matches[n].agrees for n in own.reads if n in found.matches)


def test_what_cannot_be_held_against_the_module_is_named_as_a_region() -> None:
    """The fault is known to be among these, and is measured at their end; what agrees before is none of them."""
    clean = case("turning", dynamo=True, opset=18)
    assert clean.mapped().fault is None
    wrong = copy.deepcopy(clean.flat.proto)
    difference = next(n for n in wrong.graph.node if n.op_type == "Sub")
    difference.op_type = "Add"
    found = clean.mapped(Model.from_proto(wrong)).fault
    assert found is not None
    assert found.match.tensor == clean.flat.graph.outputs[0].name
    assert difference.output[0] in found.hidden
    assert found.match.tensor not in found.hidden
    assert [clean.flat.graph.producer[n].op for n in found.after] == ["Reshape"]


class Doubling(nn.Module):
    """Adds a value of the input's, which a trace bakes in."""

    def forward(self, x: Tensor) -> Tensor:
        """[2, 3] to the same."""
        return torch.tanh(x) + float(x.mean())


def test_a_constant_baked_from_the_example_is_seen_on_other_inputs() -> None:
    """On the example itself nothing is wrong; the second input shows that the output does not follow."""
    source = source_of_module(Doubling(), "doubling")
    feeds = [{"x": torch.randn(2, 3, generator=torch.Generator().manual_seed(s)).numpy()} for s in (0, 1)]
    model = Model.from_proto(proto_of(
        [node("Tanh", ["x"], ["t"]), node("Add", ["t", "c"], ["y"])], [declared("x")], [declared("y")],
        {"c": feeds[0]["x"].mean()}))
    traces = [source.trace(feed, double=True) for feed in feeds]
    found = map_tensors(model, feeds[0], traces[0], feeds[1], traces[1])
    assert found.matches["t"].agrees
    assert [m.tensor for m in found.faults] == ["y"]
