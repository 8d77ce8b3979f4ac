"""A project of a user's, with models, in which pytest is run."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from _pytest.pytester import SysModulesSnapshot
from onnx import ModelProto, numpy_helper

from parity.api import compare
from parity.report.html import render
from parity.report.table import write_csv
from tests.builders import chain, saved


@pytest.fixture(autouse=True)
def _libraries_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run inside this process drops the modules that it imported first, and torch's do not bear a second import."""
    stay = {"torch", "functorch", "onnx", "onnxscript", "onnx_ir", "sympy", "numpy", "onnxruntime"}
    take = SysModulesSnapshot.__init__
    monkeypatch.setattr(SysModulesSnapshot, "__init__",
                        lambda self, preserve=None: take(self, lambda name: name.partition(".")[0] in stay))


def network(fault: str = "") -> ModelProto:
    """The chain of tests/builders.py with an output that a fault moves by about 1e-3."""
    proto = chain(fault)
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "w3")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e3), "w3"))
    return proto


@dataclass(frozen=True)
class Project:
    """A folder with good.onnx, bad.onnx, which has a fault at c, and tests to be written.

    Attributes:
        folder: the root.
        run: pytest with arguments, in this process.
    """

    folder: Path
    run: Callable[..., pytest.RunResult]

    def write(self, name: str, text: str) -> Path:
        """Write a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def test(self, body: str, name: str = "test_models.py") -> Path:
        """Write a test file of one function, `test_it`, with the fixture."""
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        return self.write(name, f"import pytest\n\ndef test_it(parity):\n{lines}\n")

    def candidate(self, fault: str = "") -> Path:
        """Write candidate.onnx anew, faulty in the weight of this name."""
        return saved(self.folder / "candidate.onnx", network(fault))


@pytest.fixture(scope="session")
def warm() -> None:
    """Import all that a comparison imports: pytester forgets what is imported later, and much cannot be twice."""
    importlib.import_module("parity.pytest_plugin.check")
    report = compare(network(), candidates=["onnxruntime", "pytorch:fp64", "tensorrt", network("w1")])
    assert render(report)
    assert write_csv(report)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, warm: None) -> Project:
    """An empty project with its models."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pytester.makeini("[pytest]\n")
    saved(pytester.path / "good.onnx", network())
    saved(pytester.path / "bad.onnx", network("w1"))
    return Project(pytester.path, pytester.runpytest_inprocess)
