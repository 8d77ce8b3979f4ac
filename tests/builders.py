"""Small models for tests, and the command line run as a user runs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import FunctionProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto, helper
from onnx import numpy_helper as to_onnx

from parity import cli
from parity.report.record import Candidate, Report

node = helper.make_node


def declared(name: str, shape: Iterable[int | str | None] | None = (2, 3), kind: int = TensorProto.FLOAT,
             ) -> ValueInfoProto:
    """Declare a graph input or output; `shape` None leaves the rank open."""
    return helper.make_tensor_value_info(name, kind, None if shape is None else list(shape))


X = declared("x")
Y = declared("y", None)


def proto_of(nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto] = (X,),
             outputs: Sequence[ValueInfoProto] = (Y,), weights: Mapping[str, Any] | None = None, *, opset: int = 17,
             ir: int = 8, domains: Mapping[str, int] | None = None, functions: Sequence[FunctionProto] = (),
             sparse: Sequence[SparseTensorProto] = ()) -> ModelProto:
    """A model of these nodes."""
    graph = helper.make_graph(
        list(nodes), "g", list(inputs), list(outputs),
        [to_onnx.from_array(np.asarray(w), n) for n, w in (weights or {}).items()], sparse_initializer=list(sparse))
    imports = [helper.make_opsetid(d, v) for d, v in {"": opset, **(domains or {})}.items()]
    return helper.make_model(graph, ir_version=ir, opset_imports=imports, functions=list(functions))


def saved(path: Path, proto: ModelProto) -> Path:
    """Write a model and return where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, str(path))
    return path


CHAIN = ("a", "b", "c", "d", "e", "f", "y")


def chain(faulty: str = "") -> ModelProto:
    """A small network x → a … f → y that ends flat; `faulty` names the weight whose third channel is zeroed.

    The last Softmax sees nearly equal scores, so that a fault upstream hardly moves the output.
    """
    random = np.random.default_rng(0)
    weights = {f"w{i}": random.normal(size=(8, 8)).astype(np.float32) / np.float32(np.sqrt(8)) for i in range(4)}
    weights["w3"] *= np.float32(1e-5)
    weights["g"] = np.ones(8, np.float32)
    if faulty:
        weights[faulty][:, 2] = 0
    nodes = [node("MatMul", ["x", "w0"], ["a"], name="first"), node("Relu", ["a"], ["b"]),
             node("MatMul", ["b", "w1"], ["c"]), node("LayerNormalization", ["c", "g"], ["d"]),
             node("MatMul", ["d", "w2"], ["e"]), node("MatMul", ["e", "w3"], ["f"]), node("Softmax", ["f"], ["y"])]
    return proto_of(nodes, [declared("x", (4, 8))], [declared("y", (4, 8))], weights)


@dataclass(frozen=True)
class Outcome:
    """What a user sees of one command.

    Attributes:
        status: of the process.
        out: standard output.
        err: standard error.
        folder: where the report was to go.
    """

    status: int
    out: str
    err: str
    folder: Path

    @property
    def report(self) -> Report:
        """The report that was written."""
        return Report.load(self.folder / "report.json")

    @property
    def json(self) -> Any:
        """The same as strict JSON."""
        return json.loads((self.folder / "report.json").read_text(encoding="utf-8"), parse_constant=_refuse)

    @property
    def candidate(self) -> Candidate:
        """The first candidate's row."""
        return self.report.candidates[0]


class CommandLine:
    """`parity …` in this process: `main` with arguments, its exit status, and what it wrote."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        """Run any command."""
        self._monkeypatch.setattr(sys, "argv", ["parity", *map(str, arguments)])
        self._capsys.readouterr()
        status: object = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
        shown = self._capsys.readouterr()
        assert isinstance(status, int)
        return Outcome(status, shown.out, shown.err, self.folder)

    def compare(self, *arguments: object) -> Outcome:
        """Run `parity compare … -o FOLDER`, on onnxruntime where neither a file nor a target is named."""
        given = [str(a) for a in arguments]
        options = {"-c", "--candidate"} & set(given)
        files = [a for a in given[1:] if a.endswith((".onnx", ".npz")) and given[given.index(a) - 1] != "--input"]
        default = [] if options or files else ["-c", "onnxruntime"]
        return self("compare", *given, *default, "-o", self.folder)


def _refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is not strict JSON")
