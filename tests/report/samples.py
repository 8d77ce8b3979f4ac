"""Reports to render: small, made by hand around real measurements."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np

from parity.analysis.diagnose import Diagnosis
from parity.analysis.histogram import Distributions, distributions
from parity.analysis.measure import Comparison, measure
from parity.analysis.portrait import Format, Operand, Portrait
from parity.backends.latency import Latency
from parity.fixes.fix import CurvePoint, Fix, KeptLayer
from parity.report.modules import with_modules
from parity.report.record import (
    Attribution,
    Candidate,
    FirstBad,
    InputFacts,
    Kind,
    Layer,
    ModelFacts,
    Reference,
    Report,
    Rung,
    TaskAccuracy,
    Verdict,
)
from parity.report.rungs import Stage

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


def fused() -> Candidate:
    """A candidate that hides the tensors before the first bad one."""
    candidate = bad()
    assert candidate.first_bad is not None
    region = tuple(found.tensor for found in candidate.tensors[9:18])
    found = replace(candidate.first_bad, region=region, after=(candidate.tensors[8].tensor,))
    shown = tuple(found for i, found in enumerate(candidate.tensors) if not 9 <= i < 17)
    return replace(candidate, target="tensorrt:fp16", tensors=shown, first_bad=found)


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


# Shares of the output error by tensor; the rest of it, 0.013, is what the slopes miss.
SHARES = {3: 0.412, 17: 0.561, 19: -0.183, 24: 0.094, 27: 0.052, 30: 0.031, 33: 0.012, 35: 0.008}


def attributed(candidate: Candidate) -> Candidate:
    """The candidate with its output error accounted for."""
    tensors = tuple(replace(found, share=SHARES.get(i, 0.0), energy=0.001 * abs(SHARES.get(i, 0.0)))
                    for i, found in enumerate(candidate.tensors))
    account = Attribution(
        sum=sum(SHARES.values()), sum_abs=sum(map(abs, SHARES.values())), residual=1 - sum(SHARES.values()),
        slope_rule="secant for element-wise operators, Gauss 2-point for the rest", samples=8, residual_abs=0.026,
        residual_at=tensors[6].tensor, flips=2)
    return replace(candidate, tensors=tensors, attribution=account)


def withheld() -> Candidate:
    """A candidate whose shares are not shown."""
    candidate = attributed(bad())
    tensors = tuple(replace(found, share=None) for found in candidate.tensors)
    account = Attribution(math.nan, math.nan, math.nan, "none", 1, withheld="the output is not finite (logits).")
    return replace(candidate, tensors=tensors, attribution=account)


def fix(candidate: Candidate, after: float = 0.8, *, kept: tuple[int, ...] = (3, 17, 24)) -> Fix:
    """Some layers kept in FP32; it passes where `after` is within the limit."""
    layers_ = tuple(KeptLayer(candidate.tensors[i].tensor, candidate.tensors[i].node or "", candidate.tensors[i].op,
                              "fp32", f"energy {0.1 / rank:.3f}, rank {rank} of 54") for rank, i in enumerate(kept, 1))
    curve = tuple(CurvePoint(count, error, count / 54, min(1.0, count / 40)) for count, error in
                  ((0, 4.2), (1, 2.9), (2, 1.7), (3, after * 0.9), (4, 0.71), (8, 0.9), (16, 0.31), (54, 0.0)))
    config = {"PyTorch": "QConfigMapping()\n\t.set_module_name('conv1', qconfig)"}
    return Fix("keep", "Keep 3 layers in FP32, the rest in INT8.", layers_, 4.2, after, after <= 1,
               metric=f"rel_l2 of logits 0.0421 → {after / 100:.3g}", layers=54, operations=0.124, bytes=0.032, casts=4,
               curve=curve, trials=23, runs=4, held_out=after * 1.05,
               latency_before=Latency(0.0121, 0.0119, 0.0130, 7), latency_after=Latency(0.0142, 0.0140, 0.0151, 7),
               words={"ONNX Runtime": "quantize_static(\n    nodes_to_exclude=['/layer0/Conv', '/layer2/BatchNorm'])",
                      "trtexec (TensorRT up to 10)": "--precisionConstraints=obey --layerPrecisions='"
                      + ",".join(f"/layer{i}/Conv_{i}:fp32" for i in range(12)) + "'"},
               training={} if after <= 1 else config)


def explained(after: float = 0.8) -> Candidate:
    """A candidate with causes, shares and a fix."""
    candidate = attributed(replace(bad(), target="onnxruntime:int8", accuracy=()))
    calibration = replace(fix(candidate, 2.4), strategy="calibration", kept=(), curve=(), words={}, training={},
                          message="Take INT8 ranges by percentile.", casts=0)
    return replace(candidate, fixes=(calibration, fix(candidate, after)), diagnoses=(
        Diagnosis("int8-outliers", candidate.tensors[17].tensor,
                  "The largest value of 81.2 is 64 times the 99.9th percentile, so the bulk uses 4 of 255 steps.",
                  {"largest": 81.2, "percentile_99_9": 1.27, "steps_used": 4.0}),
        Diagnosis("int8-per-tensor-weights", candidate.tensors[3].tensor,
                  "The channels of the weight differ 300 times in range.", {"ratio": 300.0})))


def repaired(after: float = 0.8) -> Report:
    """What `parity fix` reports."""
    return replace(report(explained(after)), command="parity fix fixtures/cnn.onnx --for onnxruntime:int8")


def hostile_modules() -> Report:
    """A run whose modules try to be something else."""
    candidate = hostile()
    tensors = tuple(replace(found, module=f"a.{name}") for found, name in zip(candidate.tensors, HOSTILE, strict=True))
    return with_modules(report(replace(candidate, tensors=tensors)))


def hostile_findings() -> Candidate:
    """A candidate whose causes, fixes and other tools' words try to be something else."""
    candidate = attributed(hostile())
    kept = tuple(KeptLayer(name, name, name, "fp32", name) for name in HOSTILE)
    nasty = replace(fix(candidate, 1.7, kept=()), strategy=HOSTILE[0], message=HOSTILE[1], kept=kept, metric=HOSTILE[2],
                    words={name: f"{name}\n{name}" for name in HOSTILE}, training={HOSTILE[0]: HOSTILE[1]})
    said = tuple(Diagnosis(name, name, name, {name: 1.0}) for name in HOSTILE)
    return replace(candidate, fixes=(nasty,), diagnoses=said)


def _counted(reference: np.ndarray, candidate: np.ndarray) -> Distributions:
    found = distributions(reference, candidate)
    assert found is not None
    return found


@cache
def portrait(*, wild: bool = False) -> Portrait:
    """A tensor that INT8 clips; a wild one holds NaN and infinity, and nothing but zeros beside them."""
    values = np.random.default_rng(5).standard_normal(4096).reshape(1, 4, 32, 32)
    rounded = np.clip(np.rint(values / 0.02) * 0.02, -2.56, 2.54)
    if wild:
        return Portrait(_counted(np.zeros(6), np.array([0, np.nan, np.inf, -np.inf, 0, 0])), None, ())
    int8 = Format("int8", -2.56, 2.54, 0.02, zero=0, clipped=0.0105)
    return Portrait(_counted(values, rounded), int8, (
        Operand("/layer2/Add_16_output_0", -3.1, 3.4, int8),
        Operand("</script>weight", -0.4, 0.5, Format("int8", -0.5, 0.496, 0.0039, scales=64)),
        Operand("bias", math.nan, math.inf, None)))


def pictured() -> Report:
    """A run with all that the page can draw: close-ups, a graph, latencies, several targets."""
    shown = explained()
    tensors = tuple(replace(found, portrait=portrait()) if i in {3, 17, 24} else
                    replace(found, portrait=portrait(wild=True)) if i == 18 else found
                    for i, found in enumerate(shown.tensors))
    names = [found.tensor for found in tensors]
    reads = {name: tuple(names[max(0, i - 2):i]) or ("image",) for i, name in enumerate(names)}
    reads |= {f"/hidden{i}": (names[17],) for i in range(9)}
    fast, slow = Latency(0.0121, 0.0119, 0.0130, 7), Latency(0.0302, 0.0290, 0.0331, 7)
    shown = replace(shown, tensors=tensors, latency=fast)
    run = report(replace(good(), latency=slow), shown, unavailable(), emulated())
    return climbed(with_modules(owned(replace(run, reads=reads))))


def owned(run: Report) -> Report:
    """The run with four layers a block, four blocks a stage."""
    def of(found: Layer) -> Layer:
        return replace(found, module=f"stages.{found.index // 16}.blocks.{found.index // 4}")

    return replace(run, candidates=tuple(replace(c, tensors=tuple(map(of, c.tensors))) for c in run.candidates))


def climbed(run: Report, stages: tuple[tuple[str, Stage, float | None], ...] = (
        ("module:fp64", "truth", None), ("module", "types", 7e-8), ("pytorch", "export", 0.12),
        ("onnxruntime", "runtime", 3e-7))) -> Report:
    """The run with a ladder: each rung on the one before it, what it adds beside a limit of 1e-4."""
    rungs: list[Rung] = []
    for name, stage, added in stages:
        above = rungs[-1] if rungs else None
        error = 0.0 if above is None or above.error is None else above.error + (added or 0.0)
        rungs.append(Rung(name, stage, above.name if above else None, "logits", error, added, 1e-4 if above else None,
                          added is None or added <= 1e-4,
                          blame(layer(3, 0.2, 0.2)) if added is not None and added > 1e-4 else None,
                          "In FP64, where nothing rounds, the export is off the module." * (stage == "export")))
    return replace(run, ladder=tuple(rungs))


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
    "fused": report(fused()),
    "unavailable": report(unavailable()),
    "mixed": report(good(), bad(), unavailable(), emulated()),
    "nonfinite": report(nonfinite()),
    "no layers": report(replace(good(), tensors=())),
    "no candidates": report(),
    "hostile": report(hostile()),
    "explained": report(good(), explained()),
    "withheld": report(withheld()),
    "no fix": report(explained(1.7)),
    "repaired": repaired(),
    "hostile findings": report(hostile_findings()),
    "pictured": pictured(),
    "ladder": climbed(report(replace(good(), target="module", verdict="divergence"), good())),
    "hostile ladder": climbed(report(hostile()), (("module:fp64", "truth", None), ("<b>target</b>", "other", math.nan),
                                                  (HOSTILE[0], "other", math.inf), (HOSTILE[-1], "other", None))),
    "hostile modules": hostile_modules(),
    "interrupted": replace(report(good(5)), partial=True),
}
