"""BUG.md: what is told of a repro to people who have never seen the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity.backends.base import RunOptions
from parity.contenders import Contender
from parity.environment import environment
from parity.graph.model import Model
from parity.reduce.expect import Expectation
from parity.reduce.locate import Symptom
from parity.reduce.sides import Sides
from parity.reduce.trials import Shown
from parity.reduce.verify import Ending

_HOW = "    python test_repro.py        # or: pytest test_repro.py"
_STATUS = ("Status 0: right. A last line that begins with WRONG: an output is off. Anything else: the model did not "
           "run. `REPRO_MODEL=FILE` runs another model on the same inputs.")


SIGNATURE = "Reduced with parity"  # by which BUG.md is known again


@dataclass(frozen=True, eq=False)
class Story:
    """What a bug report is made of.

    Attributes:
        model: the reference.
        contender: what went wrong.
        sides: its graphs.
        symptom: of the whole model.
        shown: the part that shows it.
        options: how the target was run.
        notes: on the values.
        limited: it is off by more than the outputs' tolerance, which rounding may explain.
    """

    model: Model
    contender: Contender
    sides: Sides
    symptom: Symptom
    shown: Shown
    options: RunOptions
    notes: Sequence[str]
    limited: bool = False

    @property
    def operators(self) -> str:
        """The operators in order: "Conv → Relu"; many are counted."""
        ops = [n.op for n in self.shown.part.nodes]
        return " → ".join(ops) if len(ops) <= 6 else f"{' → '.join(ops[:3])} → … ({len(ops)} nodes)"

    @property
    def title(self) -> str:
        """The fault in one line."""
        own = self.contender.model
        target = str(self.sides.target) if own is None else f"{Path(own.name).name} on {self.sides.target}"
        if self.shown.failure:
            return f"{target} fails on {self.operators}"
        if self.structure:
            return f"{target} differs in structure from the reference model before {self.shown.part.outputs[0]!r}"
        what = "loses accuracy in" if self.limited else "computes a wrong result of"
        return f"{target} {what} {self.operators}"

    @property
    def claim(self) -> str:
        """What the test holds to be so."""
        meant = "the reference model" if self.differs else "the model"
        return f"The outputs are what the operators of {meant} give in FP64, within the tolerance."

    @property
    def structure(self) -> str:
        """Which operators two models do not share in the part, or which of its nodes read other tensors.

        Empty where they share them, or it is a variant of one model.
        """
        if self.contender.model is None or self.limited or not self.differs:
            return ""
        own, other = (Counter(n.op for n in m.graph.nodes) for m in (self.shown.part.candidate,
                                                                     self.shown.part.reference))
        if own == other:
            swapped = "; ".join(self._rewired())
            return f"The two models differ in structure here: {swapped}." if swapped else ""
        said = [f"{word} {', '.join(ops.elements())}" for word, ops in (("lacks", other - own), ("has", own - other))
                if ops]
        besides = f"`repro.onnx` {' and '.join(said)}{', which the reference model has not' * bool(own - other)}"
        return f"The two models differ in structure here: {besides}."

    def _rewired(self) -> Iterator[str]:
        """Where a node reads another tensor than the reference's, and both models have both: no mere other name."""
        shared = _tensors(self.sides.candidate) & _tensors(self.sides.judge)
        theirs = self.shown.part.reference.graph.producer
        for node in self.shown.part.nodes:
            twin = theirs.get(node.outputs[0])
            if twin is None or twin.op != node.op or len(twin.inputs) != len(node.inputs):
                continue
            pairs = zip(node.inputs, twin.inputs, strict=True)
            yield from (f"input {place} of {node.op} {node.outputs[0]!r} is {own!r}, in the reference model {other!r}"
                        for place, (own, other) in enumerate(pairs) if own != other and {own, other} <= shared)

    @property
    def differs(self) -> bool:
        """Whether what runs is another graph than what it is judged by."""
        return self.sides.candidate is not self.sides.judge or self.limited

    def markdown(self, hashes: Mapping[str, str], reference: Ending | None) -> str:
        """The whole text.

        Args:
            hashes: of the models beside it: file → SHA-256, in hex.
            reference: what the test came to on reference.onnx; None where there is none.
        """
        return "\n".join(_lines(self, hashes, reference)) + "\n"


def _lines(story: Story, hashes: Mapping[str, str], reference: Ending | None) -> Iterator[str]:
    shown = story.shown
    yield f"# {story.title}"
    yield ""
    if shown.failure:
        yield f"Running `repro.onnx` on `inputs.npz`: {shown.failure.rstrip('.')}."
    else:
        yield ("The runtime's outputs for `repro.onnx` on `inputs.npz` differ from `expected.npz`, which is "
               f"{'the reference model' if story.differs else 'the same operators'} in FP64 on the same inputs, "
               "by more than " +
               ("the model's outputs may." if story.limited else "rounding explains."))
    if story.structure:
        yield f"{story.structure} That need be no fault of the runtime's."
    if story.differs:
        yield "`expected.npz` is by the operators and weights of the reference model."
    if reference is not None:
        yield f"On `reference.onnx`, which holds these, the same runtime {_DOES[reference.outcome]}{_words(reference)}."
    yield from ("", "## How to run it", "", _HOW, "", _STATUS, "", "## Figures", "")
    yield from _figures(shown)
    yield from ("", "## The model", "", "| node | operator | inputs | outputs |", "| --- | --- | --- | --- |")
    yield from (f"| {_cell(n.proto.name)} | {n.op} | {_cell(', '.join(n.inputs))} | {_cell(', '.join(n.outputs))} |"
                for n in shown.part.nodes)
    opsets = ", ".join(f"{d or 'ai.onnx'} {v}" for d, v in sorted(shown.part.candidate.opsets.items()))
    yield from ("", f"Opsets: {opsets}; IR version {shown.part.candidate.proto.ir_version}.", "")
    yield from (f"* input `{n}`: {v.dtype} {list(v.shape)}{_range(v)}" for n, v in shown.part.feed.items())
    yield from ("", *story.notes, "", "## Where it ran", "")
    if shown.version:
        yield f"* {story.sides.target.backend} {shown.version} on {shown.device}"
    yield from (f"* {name}: {value}" for name, value in environment(story.options).items() if value)
    yield ""
    yield from (f"`{name}` has SHA-256 {digest}." for name, digest in hashes.items())
    yield (f"{SIGNATURE}, candidate `{story.contender.target}`, from {_origin(story)}.")


def _tensors(model: Model) -> set[str]:
    """Names of all that a node of the main graph may read."""
    graph = model.graph
    return {i.name for i in graph.inputs} | graph.initializers.keys() | graph.producer.keys()


def _origin(story: Story) -> str:
    """The model that goes wrong, and what it was held against where that is another."""
    own = story.contender.model
    return _named(story.model) if own is None else f"{_named(own)}, held against {_named(story.model)}"


def _named(model: Model) -> str:
    return f"a model of {len(model.graph.nodes)} nodes (SHA-256 {model.sha256[:16]}…)"


def _figures(shown: Shown) -> Iterator[str]:
    yield from ("| output | difference | tolerance | times | greatest at | got | expected |",
                "| --- | --- | --- | --- | --- | --- | --- |")
    for expected in shown.expected:
        got = shown.outputs.get(expected.tensor)
        norm = "L2" if expected.norm == "l2" else "greatest element"
        error = "none" if got is None else f"{expected.error(got):.6g} ({norm})"
        yield (f"| `{_cell(expected.tensor)}` | {error} | {expected.tolerance:.6g} | {shown.excess(expected):.4g} | "
               f"{_worst(expected, got)} |")
    yield ""
    yield from (f"Tolerance of `{e.tensor}`: {e.why}" for e in shown.expected)


def _worst(expected: Expectation, got: np.ndarray | None) -> str:
    if got is None:
        return "| | "
    if got.shape != expected.values.shape:
        return f"shape | {list(got.shape)} | {list(expected.values.shape)}"
    if got.size == 0 or got.dtype.kind in "OSU":
        return "| | "
    with np.errstate(invalid="ignore"):
        gap = np.abs(got.astype(np.float64) - expected.values.astype(np.float64))
    place = np.unravel_index(int(np.argmax(np.nan_to_num(gap, nan=np.inf))), gap.shape)
    return f"{[int(i) for i in place]} | {got[place]:.9g} | {expected.values[place]:.9g}"


def _range(value: np.ndarray) -> str:
    if value.size == 0 or value.dtype.kind not in "fiu":
        return ""
    return f", from {value.min():.6g} to {value.max():.6g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_DOES = {"right": "is right", "wrong": "is WRONG, too", "failed": "fails"}
_ON_REFERENCE = {"right": ", passes on reference.onnx",
                 "wrong": "; is WRONG on reference.onnx, too: the target goes wrong there as well",
                 "failed": "; reference.onnx does not run, and so says nothing"}


def _words(reference: Ending) -> str:
    return f", which says nothing about it: {reference.said}" if reference.outcome == "failed" else ""


def summary(story: Story, runs: int, reference: Ending | None, folder: Path) -> str:
    """What to tell on the terminal.

    Args:
        story: of the repro.
        runs: of the target that it took.
        reference: what the test came to on reference.onnx; None where there is none.
        folder: of the files.
    """
    shown = story.shown
    worst = shown.failure or ", ".join(
        f"{e.tensor} is off by {e.error(shown.outputs[e.tensor]):.3g}, tolerance {e.tolerance:.3g}"
        for e in shown.broken[:1])
    nodes = len(shown.part.nodes)
    beside = "" if reference is None else _ON_REFERENCE[reference.outcome]
    size = f"{nodes} node{'s' * (nodes != 1)}, {runs} runs of the target"
    structure = [f"  {story.structure}"] * bool(story.structure)
    lines = [story.title, *structure, f"  {worst}", f"  {size}; fails again in a fresh process{beside}"]
    return "\n".join([*lines, *(f"  {note}" for note in story.notes), f"  in {folder}: BUG.md, test_repro.py"])
