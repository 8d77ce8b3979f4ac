"""The map: what is matched is right, twins are told apart, and what the export got wrong disagrees."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from parity.errors import ModelError
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.source_model.mapping import How
from tests.builders import node
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
        found = clean.mapped(fault.plant(clean.flat)).faults
        assert [m.tensor for m in found[:1]] == [fault.tensor], fault.kind


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
        found = clean.mapped(fault.plant(clean.flat)).faults
        assert [m.tensor for m in found[:1]] == [fault.tensor], fault.kind


class Doubling(nn.Module):
    """Adds a value of the input's, which a trace bakes in."""

    def forward(self, x: Tensor) -> Tensor:
        """[2, 3] to the same."""
        return torch.tanh(x) + float(x.mean())


def test_a_constant_baked_from_the_example_is_seen_on_other_inputs() -> None:
    """On the example itself nothing is wrong; the second input shows that the output does not follow."""
    from parity.source_model.loading import source_of_module
    from parity.source_model.matching import map_tensors
    from tests.builders import declared, proto_of

    source = source_of_module(Doubling(), "doubling")
    feeds = [{"x": torch.randn(2, 3, generator=torch.Generator().manual_seed(s)).numpy()} for s in (0, 1)]
    model = Model.from_proto(proto_of(
        [node("Tanh", ["x"], ["t"]), node("Add", ["t", "c"], ["y"])], [declared("x")], [declared("y")],
        {"c": feeds[0]["x"].mean()}))
    traces = [source.trace(feed, double=True) for feed in feeds]
    found = map_tensors(model, feeds[0], traces[0], feeds[1], traces[1])
    assert found.matches["t"].agrees
    assert [m.tensor for m in found.faults] == ["y"]
