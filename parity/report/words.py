"""The words and figures that every renderer shares, so that the terminal and the HTML report say the same things."""

from __future__ import annotations

import math
import unicodedata
from typing import Literal

from parity.analysis.diagnose import Diagnosis
from parity.analysis.measure import METRICS
from parity.backends.latency import Latency
from parity.figures import number as number  # noqa: PLC0414 - renderers take it from here
from parity.report.record import Candidate, FirstBad, Kind, Layer, TaskResult

Mark = Literal["good", "bad", "warn", "none"]

SIGNS: dict[Mark, str] = {"good": "✓", "bad": "✗", "warn": "!", "none": "–"}

KINDS: dict[Kind, str] = {
    "implementation": "implementation: the runtime's own result here is off by more than rounding explains",
    "precision": "precision: the number format explains the error, not the runtime",
    "nonfinite": "non-finite: Inf or NaN appears here for the first time",
    "export": "export: the ONNX model itself computes something else here than the module, whatever runs it",
}

_LONGEST = 80  # characters of a name in a sentence; tables and details have all of them
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    r"""The text with what would not show, or would move other text, written out as \x1b or \u202e."""
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    hidden = unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or character in _DIRECTIONS
    if not hidden:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def line(text: str) -> str:
    """A message as one visible line."""
    return visible(" ".join(text.split()))


def lines(text: str) -> str:
    """A text of several lines, each as it is, with what would not show written out."""
    return "\n".join(visible(each) for each in text.expandtabs(4).split("\n"))


def plural(count: int, noun: str) -> str:
    """The count with its noun: "1 output", "3 outputs"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shape(sizes: tuple[int, ...]) -> str:
    """The sizes as 1×3×224×224, "scalar" for none."""
    return "×".join(map(str, sizes)) or "scalar"


def target(candidate: Candidate) -> str:
    """The candidate's target, marked where it is a forecast."""
    return visible(candidate.target) + (" (emulated)" if candidate.emulated else "")


def mark(candidate: Candidate) -> Mark:
    """How a candidate did, at a glance."""
    if candidate.status != "ok" or candidate.verdict == "error":
        return "none"
    if candidate.verdict == "divergence":
        return "bad"
    return "warn" if candidate.first_bad else "good"


def verdict(candidate: Candidate) -> str:
    """The candidate's verdict in words: what its outputs did, or why there are none."""
    if candidate.status != "ok":
        return f"{'could not run' if candidate.status == 'unavailable' else 'broke'}: {line(candidate.reason)}"
    count, failed = len(candidate.outputs), sum(not output.passed for output in candidate.outputs)
    match mark(candidate):
        case "none":
            return f"not judged: {line(candidate.reason) or 'no output was compared'}"
        case "bad":
            fixed = "" if not candidate.fixes else "; a fix passes" if any(f.passed for f in candidate.fixes) else (
                "; no fix passes")
            missed = [t for t in candidate.tasks if not t.passed]
            if missed and not failed:
                return f"divergence: {'; '.join(task(t, detail=False) for t in missed[:2])}{fixed}"
            return f"divergence: {failed:,} of {plural(count, 'output')} beyond tolerance{fixed}"
        case "warn":
            return "parity at the outputs, which hide a bad layer"
        case _:
            return f"parity: {plural(count, 'output')} within tolerance, no bad layer"


def elided(name: str, room: int) -> str:
    """The name with its middle left out, since a tensor's beginning and end say which it is."""
    if len(name) <= room:
        return name
    head = (room - 1) // 3
    return f"{name[:head]}…{name[len(name) - (room - 1 - head):]}"


def short(name: str) -> str:
    """A name as it stands in a sentence: visible, and its middle left out where it is very long."""
    return elided(visible(name), _LONGEST)


def blamed(found: FirstBad) -> str:
    """The first bad layer by tensor and operator, and that it may be a hidden one."""
    return tensor_op(found) + or_hidden(found)


def tensor_op(found: FirstBad) -> str:
    """A tensor with its operator, "conv2d (Conv)"."""
    return f"{short(found.tensor)} ({short(found.op)})" if found.op else short(found.tensor)


def or_hidden(found: FirstBad) -> str:
    """What to put after the tensor's name where the fault may be in a node before it that shows nothing."""
    if not found.region:
        return ""
    others = len(found.region) - 1
    return f", or {'the hidden node' if others == 1 else f'one of the {others:,} hidden nodes'} before it"


_NAMED = 6


def region(found: FirstBad) -> str:
    """The nodes among which the fault is, as "one of the 3 nodes after a: b, c, d"; empty where it is known."""
    if not found.region:
        return ""
    nodes = [visible(name) for name in found.region]
    named = [*nodes[:_NAMED - 2], "…", nodes[-1]] if len(nodes) > _NAMED else nodes
    after = ", ".join(map(visible, found.after[:_NAMED])) + ("…" if len(found.after) > _NAMED else "")
    return f"one of the {len(nodes):,} nodes after {after or 'the weights'}: {', '.join(named)}"


def ratio(local: float | None, floor: float | None) -> float | None:
    """Local error over its floor; 0/0 is 0 for an operator that must be exact and was."""
    if local is None or floor is None:
        return None
    if floor == 0:
        return 0.0 if local == 0 else math.inf
    return local / floor


def floor(layer: Layer) -> str:
    """The error that a layer is allowed; an operator without arithmetic is allowed none but a flushed subnormal."""
    return "exact" if layer.floor is not None and layer.floor < 1e-30 else number(layer.floor)


def accepted(layer: Layer) -> str:
    """What of a layer's local error is judged, beside what is accepted and how many times over that it is."""
    own = own_error(layer)
    if layer.floor is None or own is None:
        return number(own)
    if floor(layer) == "exact":
        return "exact" if own <= layer.floor else f"{number(own)}, where it must be exact"
    times = layer_ratio(layer)
    over = f" ({number(times)} times over)" if times is not None and 1 < times < math.inf else ""
    return f"{number(own)}, accepted up to {number(layer.floor)}{over}"


def layer_mark(layer: Layer) -> Mark:
    """How a tensor did, at a glance; none where nothing of it could be compared."""
    if not layer.passed and layer.origin != "inherited":
        return "bad"
    if layer.origin == "inherited":
        return "warn"
    return "good" if layer.accumulated is not None or layer.local is not None else "none"


def layer_ratio(layer: Layer) -> float | None:
    """What a layer adds by itself, its number format aside, over its floor."""
    return ratio(own_error(layer), layer.floor)


def own_error(layer: Layer) -> float | None:
    """What a layer adds by itself, its number format aside: the part of the local error that is judged."""
    if layer.implementation is not None:
        return layer.implementation
    return layer.local.rel_l2 if layer.local else None


def blamed_layer(candidate: Candidate) -> Layer | None:
    """The entry of the first bad layer among the candidate's tensors."""
    found = candidate.first_bad
    return next((layer for layer in candidate.tensors if found and layer.tensor == found.tensor), None)


def limit(output: Layer) -> str:
    """What an output must keep to: the limit of its relative L2 error, and of other metrics with what they are at."""
    found = output.accumulated
    others = [f"{name} {number(METRICS[name].of(found)) if found else '–'} of {number(most)}"
              for name, most in output.limits.items() if name in METRICS]
    return ", ".join([*([number(output.tolerance)] if output.tolerance is not None or not others else []), *others])


def task(found: TaskResult, *, detail: bool = True) -> str:
    """A judge's figure, its limit and, with `detail`, what stands beside it."""
    limit = "" if found.limit is None else f" (limit {number(found.limit)}, {'kept' if found.passed else 'missed'})"
    beside = ", ".join(f"{name} {number(value)}" for name, value in found.detail.items())
    figure = f"{found.judge} of {visible(found.output)} {number(found.value)}{limit}"
    return f"{figure}; {beside}" if detail and beside else figure


def timing(candidate: Candidate) -> str:
    """The candidate's latency."""
    return latency(candidate.latency)


def latency(found: Latency | None) -> str:
    """A latency in milliseconds with its spread; a dash where it was not measured."""
    if found is None:
        return "–"
    return f"{number(1e3 * found.median)} ms ({number(1e3 * found.low)} to {number(1e3 * found.high)})"


def cause(found: Diagnosis) -> str:
    """What a diagnosis says, with the tensor where it does not name it itself."""
    said = line(found.message)
    return said if visible(found.tensor) in said else f"{said.rstrip('.')} (at {visible(found.tensor)})."


def evidence(found: Diagnosis) -> list[tuple[str, str]]:
    """The figures of a diagnosis by name."""
    return [(visible(name.replace("_", " ")), number(value)) for name, value in found.evidence.items()]
