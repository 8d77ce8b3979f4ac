"""Every name of TensorRT's that the adapter uses exists in TensorRT 10.16, 11 and RTX, or is guarded by version.

The bindings are real; the libraries that they load are stubs, compiled here, that export what is looked for and do
nothing: enough to import the module and to look at its classes.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.models import ROOT

PACKAGE = ROOT / "parity" / "backends" / "trt"
BINDINGS = sorted((ROOT / ".venv" / "bindings").glob("*/tensorrt_bindings"))
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
SYMBOLS = ("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
           "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry",
           "getPluginRegistry", "getNvOnnxParserVersion", "initLibNvInferPlugins")
# What the expressions of the adapter stand for; "" is the module itself.
ROLES = {
    "trt": "", "library.trt": "", "self.trt": "", "self._library.trt": "",
    "builder": "Builder", "network.builder": "Builder",
    "definition": "INetworkDefinition", "network.definition": "INetworkDefinition",
    "parser": "OnnxParser", "self.parser": "OnnxParser", "error": "ParserError",
    "tensor": "ITensor", "declared": "ITensor", "config": "IBuilderConfig",
    "self._engine": "ICudaEngine", "context": "IExecutionContext", "inspector": "EngineInspector",
}
# In these files an expression of that name is something else.
NOT_THERE = {("library.py", "error"), ("driver.py", "error"), ("given.py", "error"), ("build.py", "error"),
             ("run.py", "error"), ("watch.py", "error"), ("session.py", "error"), ("session.py", "self._engine"),
             ("given.py", "self._engine"), ("run.py", "tensor"), ("layers.py", "tensor"), ("driver.py", "context")}

pytestmark = pytest.mark.bindings


class Use(NamedTuple):
    """A name of TensorRT's in the adapter: its class ("" for the module), the name, where, and whether for RTX only."""

    owner: str
    name: str
    place: str
    rtx_only: bool


def uses() -> Iterator[Use]:
    """Every attribute of TensorRT's modules and objects in the adapter's source."""
    for path in sorted(PACKAGE.glob("*.py")):
        yield from _uses_in(ast.parse(path.read_text(encoding="utf-8")), path.name, rtx_only=False)


def _uses_in(tree: ast.AST, file: str, *, rtx_only: bool) -> Iterator[Use]:
    guarded = isinstance(tree, ast.If) and "tensorrt_rtx" in ast.unparse(tree.test)
    outside = {id(part) for part in tree.orelse} if isinstance(tree, ast.If) else set()
    if isinstance(tree, ast.Attribute):
        base = ast.unparse(tree.value)
        owner = ROLES.get(base)
        if owner is not None and (file, base) not in NOT_THERE:
            yield Use(owner, tree.attr, f"{file}:{tree.lineno}", rtx_only)
        inner = tree.value  # trt.MemoryPoolType.WORKSPACE is a member of a class of the module
        if isinstance(inner, ast.Attribute) and ROLES.get(ast.unparse(inner.value)) == "":
            yield Use(inner.attr, tree.attr, f"{file}:{tree.lineno}", rtx_only)
    for part in ast.iter_child_nodes(tree):
        yield from _uses_in(part, file, rtx_only=rtx_only or (guarded and id(part) not in outside))


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of libraries under the names that the bindings load, for each major version."""
    folder = tmp_path_factory.mktemp("stubs")
    source = folder / "stub.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in SYMBOLS))
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    for major in {path.parent.name.partition(".")[0] for path in BINDINGS}:
        for library in LIBRARIES:
            name = f"lib{library}.so.{major}"
            subprocess.run([compiler, "-shared", "-fPIC", source, "-o", folder / name, f"-Wl,-soname,{name}"],
                           check=True)
    return folder


def members(module: str, path: Path, libraries: Path) -> Mapping[str, list[str]]:
    """The module's own names under "", and the members of its classes, looked at in another process."""
    code = ("import importlib, json, sys, warnings; warnings.simplefilter('ignore'); sys.path.insert(0, sys.argv[2])\n"
            "module = importlib.import_module(sys.argv[1])\n"
            "found = {name: dir(value) for name, value in vars(module).items() if isinstance(value, type)}\n"
            "print(json.dumps({**found, '': dir(module)}))")
    result = subprocess.run([sys.executable, "-c", code, module, str(path)], capture_output=True, text=True, check=True,
                            env={**os.environ, "LD_LIBRARY_PATH": str(libraries)})
    found: Mapping[str, list[str]] = json.loads(result.stdout)
    return found


def missing(found: Mapping[str, list[str]], *, rtx: bool) -> list[Use]:
    """Uses that a TensorRT does not have."""
    return [use for use in uses() if (rtx or not use.rtx_only) and use.name not in found.get(use.owner, [])]


@pytest.mark.parametrize("bindings", BINDINGS, ids=lambda path: path.parent.name)
def test_every_name_is_in_tensorrt(bindings: Path, stubs: Path) -> None:
    """What is used without a guard is in these bindings, and TensorRT-RTX's own is in none of them."""
    found = members("tensorrt_bindings", bindings.parent, stubs)
    assert missing(found, rtx=False) == []
    assert {use.name for use in uses() if use.rtx_only} & {*found[""], *found["IBuilderConfig"]} == set()


@pytest.mark.tensorrt
def test_every_name_is_in_tensorrt_rtx(stubs: Path) -> None:
    """What is used is in TensorRT-RTX, guarded or not."""
    assert missing(members("tensorrt_rtx", ROOT, stubs), rtx=True) == []


def test_the_walk_finds_what_is_used() -> None:
    """Every role stands for something in the source, the guards are seen, and a name that is not there is found."""
    found = list(uses())
    assert {use.owner for use in found} >= set(ROLES.values())
    assert {use.name for use in found if use.rtx_only} == {
        "ComputeCapability", "num_compute_capabilities", "set_compute_capability"}
    everything = {owner: [u.name for u in found if u.owner == owner] for owner in {u.owner for u in found}}
    everything["Builder"].remove("create_network")
    assert {use.name for use in missing(everything, rtx=True)} == {"create_network"}
