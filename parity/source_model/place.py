"""Where in the user's code a value comes from: the module that owns it, and the line that made it."""

from __future__ import annotations

import ast
import linecache
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from parity.graph.graph import Node

# Frames inside of these say how torch works, not what the user wrote.
_NOT_THE_USERS = re.compile(r"^<|[/\\](site-packages|dist-packages|torch|onnxscript|lib[/\\]python3\.\d+)[/\\]")
# What torch writes itself and runs: nobody can look it up.
_GENERATED = "<eval_with_key>"
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_PACKAGE = str(Path(__file__).resolve().parents[1])
_CALLER = str(Path(__file__).resolve().with_name("source.py"))
_MOST_FRAMES = 5
_KEY = "pkg.torch.onnx."


@dataclass(frozen=True)
class Place:
    """A place in the user's code.

    Attributes:
        module: path of the module that owns the value, "layers.3.attn"; empty for the outermost, or where unknown.
        file: as Python named it; empty where unknown.
        line: from 1; 0 where unknown.
        text: the line's own words, stripped.
    """

    module: str = ""
    file: str = ""
    line: int = 0
    text: str = ""

    @property
    def source(self) -> str | None:
        """`file:line`, or None."""
        return f"{self.file}:{self.line}" if self.file else None

    @property
    def key(self) -> tuple[str, str, int]:
        """The same on every machine: of the file only the name counts."""
        return self.module, Path(self.file).name, self.line


def place_of(node: Node) -> Place:
    """Where a node was exported from, by what the exporter wrote beside it.

    The dynamo exporter writes a stack trace and the scopes of names (`pkg.torch.onnx.*` in `metadata_props`); the older
    one names nodes by scope, "/layers/layers.3/attn/MatMul_2".
    """
    notes = {p.key: p.value for p in node.proto.metadata_props}
    if _KEY + "name_scopes" not in notes and _KEY + "stack_trace" not in notes:
        return Place(scope_path(node.proto.name))
    file, line, text = _user_frame(notes.get(_KEY + "stack_trace", ""))
    return Place(_module(notes.get(_KEY + "name_scopes", "")), file, line, text)


def fx_name(node: Node) -> str:
    """Name of the node of the exporter's program that this one translates, or a part of it; empty where unknown."""
    note = next((p.value for p in node.proto.metadata_props if p.key == _KEY + "fx_node"), "")
    return note.partition(" : ")[0].removeprefix("%") if note.startswith("%") else ""


def fx_op(node: Node) -> str:
    """The operator of that node, "linear"; of one that picks a result, the operator that has several."""
    note = next((p.value for p in node.proto.metadata_props if p.key == _KEY + "fx_node"), "")
    target = note.partition("target=")[2].partition("]")[0]
    if target == "operator.getitem":
        return re.sub(r"_\d+$", "", note.partition("args = (%")[2].partition(",")[0])
    return target.removeprefix("torch.ops.").split(".")[1] if target.startswith("torch.ops.") else ""


def scope_path(name: str) -> str:
    """The module path in a node name of the older exporter.

    A container that is itself called repeats its name in its children's: "/layer1/layer1.0/conv1/Conv" is
    "layer1.0.conv1".
    """
    if not name.startswith("/"):
        return ""
    path: list[str] = []
    for scope in name.split("/")[1:-1]:
        if path and scope.startswith(path[-1] + "."):
            path[-1] = scope
        else:
            path.append(scope)
    return ".".join(path)


def user_place(module: str) -> Place:
    """The innermost line of the user's own code that runs now.

    Args:
        module: path of the module that runs.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - inspect.stack() reads every file on the way
    while frame is not None and frame.f_code.co_filename != _CALLER:  # beyond it are those who run parity
        file = frame.f_code.co_filename
        if not file.startswith(_PACKAGE) and not _NOT_THE_USERS.search(file):
            return Place(module, file, frame.f_lineno, linecache.getline(file, frame.f_lineno).strip())
        frame = frame.f_back
    return Place(module)


def traced_place(trace: str, stack: Mapping[str, tuple[str, object]] | None) -> Place:
    """Where a node of an exported program comes from.

    Args:
        trace: its `stack_trace`.
        stack: its `nn_module_stack`: path and class of each module around it, outermost first.
    """
    paths = [path for path, _ in (stack or {}).values()]
    return Place(_plain(paths[-1]) if paths else "", *_user_frame(trace))


def frames_of(error: BaseException) -> tuple[str, ...]:
    """The user's own frames of an exception's traceback, a line each, the innermost last."""
    own = [f for f in traceback.extract_tb(error.__traceback__)
           if not f.filename.startswith(_PACKAGE) and not _NOT_THE_USERS.search(f.filename)]
    return tuple(f"{f.filename}:{f.lineno} in {f.name}: {f.line}" for f in own[-_MOST_FRAMES:])


def _user_frame(trace: str) -> tuple[str, int, str]:
    """File, line and text of the innermost frame that is the user's; where none is, of the innermost file's."""
    lines = trace.splitlines()
    frames = [(m["file"], int(m["line"]), i) for i, m in enumerate(map(_FRAME.search, lines))
              if m and not m["file"].startswith(_GENERATED)]
    own = [f for f in frames if not _NOT_THE_USERS.search(f[0])] or frames
    if not own:
        return "", 0, ""
    file, line, at = own[-1]
    text = lines[at + 1].strip() if at + 1 < len(lines) and not _FRAME.search(lines[at + 1]) else ""
    return file, line, text or linecache.getline(file, line).strip()


def _module(scopes: str) -> str:
    """The innermost module of a list of scopes, the last of which is the operator's own."""
    try:
        found: object = ast.literal_eval(scopes)
    except (ValueError, SyntaxError):
        return ""
    return _plain(str(found[-2])) if isinstance(found, list) and len(found) > 1 else ""


def _plain(path: str) -> str:
    """A module path without the `@1` that a second call of the same module adds."""
    return re.sub(r"@\d+$", "", path)
