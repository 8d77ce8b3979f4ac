"""The house keeps its order: imports point up the list of layers, and a vendor is imported in one place."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models import ROOT

LAYERS = ("errors", "figures", "targets", "graph", "asked", "precision", "backends", "source_model", "analysis",
          "fixes", "report", "environment", "original", "contenders", "preparation", "inspect", "convert", "selfcheck",
          "fix", "sample", "walk", "explain", "examine", "ladder", "compare", "api", "baseline", "reduce", "commands",
          "cli", "pytest_plugin")
TENSORRT = {f"backends/trt/{p.name}" for p in (ROOT / "parity" / "backends" / "trt").glob("*.py")}
# ONNX Runtime's quantiser is a library that makes models, not a runtime that runs them.
VENDORS = {"onnxruntime": {"backends/ort.py", "precision/quantize.py", "precision/ranges.py"},
           **dict.fromkeys(("tensorrt", "tensorrt_rtx", "polygraphy"), TENSORRT), "plotly": {"report/html.py"},
           "rich": {"report/text.py", "report/terminal.py", "report/sections.py", "commands/options.py"}}
FILES = sorted((ROOT / "parity").rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def room(module: str) -> str:
    """The layer of a module: parity.graph.ops.math → graph."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_up_the_layers(path: Path) -> None:
    """A file imports only from its own layer and from those above it in the list."""
    own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if own == "__init__":
        return
    used = {room(m) for m in imports(path) if m.startswith("parity.")}
    assert used <= {*LAYERS[:LAYERS.index(own) + 1]}, f"{path} imports from below: {used}"


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_vendor_is_imported_in_one_place(vendor: str) -> None:
    """Only the file made for a vendor's library imports it."""
    found = {str(p.relative_to(ROOT / "parity")) for p in FILES if any(m.split(".")[0] == vendor for m in imports(p))}
    assert found <= VENDORS[vendor]


def test_files_fit_a_reader() -> None:
    """No file is longer than about 300 lines."""
    lengths = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert {str(p): n for p, n in lengths.items() if n > 320} == {}


def test_the_command_line_starts_light() -> None:
    """`parity --help` imports nothing heavy."""
    code = ("import sys; sys.argv = ['parity', '--help']\nfrom parity.cli import main\n"
            "try: main()\nexcept SystemExit: pass\nprint(*sys.modules)")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "click" in loaded
    assert not loaded & {"torch", "numpy", "onnx", "onnxruntime", "numba", "plotly", "rich", "pandas"}
