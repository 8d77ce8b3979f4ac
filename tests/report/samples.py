"""Reports to render: small, made by hand around real measurements."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np

from parity.analysis.measure import Comparison, measure
from parity.report.record import (
    Candidate,
    FirstBad,
    InputFacts,
    Kind,
    Layer,
    ModelFacts,
    Reference,
    Report,
    TaskAccuracy,
    Verdict,
)

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"quotes\" & 'apostrophes'",
    "=HYPERLINK(\"http://example.org\")",
    "[bold red]markup[/] [link=http://example.org]here[/link]",
    "esc\x1b[31mape\r\nline\u2028two",
    "\u202egnp.exe",
    "משקל/שכבה",
    "emoji 🧪👩‍🔬",
    "n" * 500,
)

OPS = ("Conv", "BatchNormalization", "Relu", "Conv", "Add", "Relu", "MaxPool", "Gemm")


@cache
def comparison(error: float) -> Comparison:
    """Two vectors whose relative L2 distance is about `error`; NaN and infinity put one such element in."""
    reference = np.linspace(0.5, 2.0, 8)
    candidate = reference.copy()
    if math.isfinite(error):
        candidate[3] += error * float(np.linalg.norm(reference))
    else:
        candidate[3] = error
    return measure(reference, candidate)


def layer(index: int, local: float | None, accumulated: float | None, floor: float | None = 1e-6, *,
          tensor: str | None = None) -> Layer:
    """The output of node `index`; it failed where its local error passes the floor."""
    failed = local is not None and floor is not None and not local <= floor
    return Layer(
        tensor=tensor or f"/layer{index // 8}/{OPS[index % 8]}_{index}_output_0",
        node=f"/layer{index // 8}/{OPS[index % 8]}",
        op=OPS[index % 8], index=index, source=f"model.py:{10 + index}", dtype="float32", shape=(1, 8, 4, 4),
        local=None if local is None else comparison(local),
        accumulated=None if accumulated is None else comparison(accumulated), floor=floor, passed=not failed,
        origin="implementation" if failed else None, level="torch")


def layers(count: int, fault: int | None = None) -> tuple[Layer, ...]:
    """A network of `count` tensors with rounding noise, and one fault that everything after it inherits."""
    rng = np.random.default_rng(count)
    noise = 10.0 ** rng.uniform(-7.4, -6.6, count).round(2)
    made = []
    for index, amount in enumerate(map(float, noise)):
        after = fault is not None and index >= fault
        local = 0.02 if index == fault else 0.0 if OPS[index % 8] in ("Relu", "MaxPool") else amount
        grown = 2e-7 * 1.04 ** (index * 60 / count)
        found = layer(index, local, 0.02 if after else round(grown, 9), 0.0 if local == 0 else 2e-6)
        made.append(replace(found, origin="inherited") if after and index != fault else found)
    return tuple(made)


def output(name: str, error: float, limit: float = 1e-4) -> Layer:
    """A graph output held against its limit."""
    return Layer(tensor=name, node="/head/Gemm", op="Gemm", index=99, dtype="float32", shape=(1, 8),
                 passed=error <= limit, accumulated=comparison(error), tolerance=limit, noise=3e-7)


def blame(found: Layer) -> FirstBad:
    """The layer as the first bad one."""
    kind: Kind = "nonfinite" if found.accumulated and found.accumulated.mismatched_nonfinite else "implementation"
    return FirstBad(tensor=found.tensor, node=found.node, op=found.op, index=found.index, kind=kind,
                    accumulated=found.accumulated, local=found.local, source=found.source)


def good(count: int = 40) -> Candidate:
    """A candidate at parity."""
    return Candidate("onnxruntime", "ok", verdict="parity", watching_moved_outputs=2e-8,
                     outputs=(output("logits", 3e-7),), tensors=layers(count),
                     version="1.31.1", device="cpu", seconds=0.012)


def bad(count: int = 40, fault: int = 17) -> Candidate:
    """A candidate with one faulty layer that fails one of two outputs."""
    tensors = layers(count, fault)
    return Candidate("onnxruntime:fp16", "ok", verdict="divergence", watching_moved_outputs=3e-5,
                     outputs=(output("logits", 0.0312), output("features", 2e-5)), tensors=tensors,
                     first_bad=blame(tensors[fault]), version="1.31.1", device="cpu", seconds=0.034,
                     notes=("Watching the tensors moved the outputs by 3.00e-5.",),
                     accuracy=(TaskAccuracy("logits", 0.975, 0.94, 360),))


def hidden() -> Candidate:
    """A candidate whose outputs hide a faulty layer."""
    return replace(bad(), target="faulty.onnx", verdict="parity", outputs=(output("logits", 2e-6),))


def unavailable() -> Candidate:
    """A candidate that cannot run here."""
    return Candidate("tensorrt:fp16", "unavailable",
                     reason="no NVIDIA driver: libcuda.so.1 is not there\ninstall the driver")


def emulated() -> Candidate:
    """A forecast that nobody asked for."""
    return replace(bad(), target="pytorch:int8", emulated=True, asked=False)


def nonfinite() -> Candidate:
    """A candidate whose tensors hold NaN and infinity, miss figures, and have no floor."""
    tensors = (layer(0, 1e-7, 1e-7), layer(1, math.inf, math.inf), layer(2, math.nan, math.nan, None),
               layer(3, None, None, None))
    return Candidate("onnxruntime:fp16", "ok", verdict="divergence", outputs=(output("logits", math.nan),),
                     tensors=tensors, first_bad=blame(tensors[1]))


def hostile() -> Candidate:
    """A candidate whose names try to be something else."""
    tensors = tuple(replace(layer(i, 0.5, 0.5, tensor=name), node=name, op=name, source=name)
                    for i, name in enumerate(HOSTILE))
    return Candidate("<b>target</b>", "ok", verdict="divergence",
                     outputs=tuple(output(name, 0.5) for name in HOSTILE), tensors=tensors,
                     first_bad=blame(tensors[0]), notes=HOSTILE, version="<i>1</i>", device="<u>cpu</u>")


def report(*candidates: Candidate, verdict: Verdict | None = None) -> Report:
    """A run over the candidates; the verdict is the worst of theirs unless given."""
    verdicts = {candidate.verdict for candidate in candidates if candidate.asked}
    worst: Verdict = "divergence" if "divergence" in verdicts else "parity" if "parity" in verdicts else "error"
    return Report(verdict or worst, ModelFacts("fixtures/cnn.onnx", "9f" * 32, 40, 44),
                  (InputFacts("image", "float32", (1, 3, 32, 32), "seeded: uniform in [0, 1)"),), 0,
                  {"python": "3.11.9", "torch": "2.13.0", "onnx": "1.23.2"}, Reference("pytorch", "ok", 0.2),
                  candidates, command="parity compare fixtures/cnn.onnx -c onnxruntime:fp16")


EVERY = {
    "parity": report(good()),
    "divergence": report(bad()),
    "hidden": report(hidden()),
    "unavailable": report(unavailable()),
    "mixed": report(good(), bad(), unavailable(), emulated()),
    "nonfinite": report(nonfinite()),
    "no layers": report(replace(good(), tensors=())),
    "no candidates": report(),
    "hostile": report(hostile()),
    "interrupted": replace(report(good(5)), partial=True),
}
