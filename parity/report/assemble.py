"""From what the analysis found to the rows of the Report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from parity.analysis.attribute import Pooled
from parity.analysis.cuts import Search
from parity.analysis.localize import Divergence
from parity.analysis.measure import Comparison
from parity.analysis.outputs import OutputFinding, top1
from parity.analysis.tasks import judge_tasks, within
from parity.figures import number
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.report.modules import with_modules
from parity.report.record import Attribution, Candidate, FirstBad, Kind, Layer, Report, TaskAccuracy, TaskResult
from parity.source_model.place import Place, place_of


def layer_of(found: Divergence, limit: float) -> Layer:
    """A tensor's row.

    Args:
        found: the tensor on both sides.
        limit: relative L2 tolerance of the outputs; a tensor beyond it that is not to blame inherits its error.
    """
    judgement, accumulated = found.judgement, found.accumulated
    origin: str | None = None
    if found.to_blame:
        origin = "nonfinite" if judgement is not None and judgement.nonfinite else "implementation"
    elif accumulated is not None and not accumulated.rel_l2 <= limit:
        origin = "inherited"
    place = place_of(found.node)
    return Layer(
        found.tensor, found.node.proto.name, found.node.op, found.index, place.source,
        found.dtype, found.shape, accumulated, found.local, None if judgement is None else judgement.floor,
        found.precision, None if judgement is None else judgement.implementation,
        passed=not found.to_blame, origin=origin, level=found.level, module=_module(place))


def blamed_row(row: Layer, found: FirstBad | None, *, deployed: bool) -> Layer:
    """A tensor's row, which says that it is to blame where it is named for what its own local error does not say.

    Args:
        row: of the watched run.
        found: the tensor that is named: for a NaN or Inf that its inputs explain, or for what the deployed run does.
        deployed: it was found in the deployed run. The watched run's figures of it are of another error.
    """
    if deployed and found is not None and found.tensor == row.tensor:
        blamed = found.kind == "implementation"
        return replace(row, accumulated=found.accumulated, local=None, floor=None, precision=None, implementation=None,
                       passed=not blamed, origin="implementation" if blamed else "inherited")
    named = found is not None and found.kind == "nonfinite" and found.tensor == row.tensor
    return replace(row, passed=False, origin="nonfinite") if named else row


def output_layer(found: OutputFinding, node: Node | None) -> Layer:
    """A graph output's row; `node` makes it, None where it is an input or a weight passed through."""
    row = Layer(found.name, "", "", -1) if node is None else Layer(
        found.name, node.proto.name, node.op, node.index, place_of(node).source, module=_module(place_of(node)))
    return replace(row, dtype=found.dtype, shape=found.shape, accumulated=found.comparison, passed=found.passed,
                   tolerance=found.limit if math.isfinite(found.limit) else None, limits=found.limits,
                   noise=found.noise)


def accuracies(reference: Mapping[str, np.ndarray], candidate: Mapping[str, np.ndarray],
               labels: np.ndarray | None) -> tuple[TaskAccuracy, ...]:
    """Top-1 accuracy on both sides, of every output that has a row a label."""
    if labels is None:
        return ()
    rows = []
    for name in (n for n in reference if n in candidate):
        right, other = top1(reference[name], labels), top1(candidate[name], labels)
        if right is not None and other is not None:
            rows.append(TaskAccuracy(name, right, other, len(labels)))
    return tuple(rows)


def task_results(judges: Sequence[str], limits: Mapping[str, float], reference: Mapping[str, np.ndarray],
                 candidate: Mapping[str, np.ndarray], labels: np.ndarray | None) -> tuple[TaskResult, ...]:
    """What the judges that were asked for say; a limit asks for its judge.

    Raises:
        UsageError: a judge that fits no output.
    """
    asked = [*judges, *(j for j in limits if j not in {name.partition(":")[0] for name in judges})]
    figures = judge_tasks(asked, reference, candidate, labels) if asked else ()
    return tuple(
        TaskResult(f.judge, f.output, f.value, limits.get(f.judge),
                   f.judge not in limits or within(f, limits[f.judge]), f.detail) for f in figures)


def first_bad_of(found: Divergence, kind: Kind) -> FirstBad:
    """The tensor to name."""
    node, region = found.node, found.region
    return FirstBad(found.tensor, node.proto.name, node.op, found.index, kind, found.accumulated, found.local,
                    place_of(node).source, () if region is None else region.tensors,
                    () if region is None else region.after)


def first_bad_in(search: Search, flat: Model, watched: Mapping[str, Comparison | None], limit: float,
                 ) -> FirstBad | None:
    """The tensor to name where the deployed run was searched; None where nothing was found.

    Args:
        search: what came of it.
        flat: the graph that was searched.
        watched: every tensor of the watched run against the reference. One that is right there does not suffer from
            its number format.
        limit: relative L2 error up to which a tensor is right.
    """
    if search.region is None:
        return None
    tensor = search.region.wrong
    node, beside = flat.graph.producer[tensor], watched.get(tensor)
    kind: Kind = "precision" if beside is None or beside.rel_l2 > limit else "implementation"
    between = search.region.nodes if len(search.region.nodes) > 1 else ()
    return FirstBad(tensor, node.proto.name, node.op, node.index, kind, search.region.comparison, None,
                    place_of(node).source, tuple(n.outputs[0] for n in between), search.region.right if between else ())


_FOUND = ("Watching changes the result by as much as the error itself, so a few tensors at a time were marked, in {} "
          "runs: the deployed run goes wrong in {}, between {} and {!r}, which is off by {} (relative L2). The figures "
          "of the layers are those of the watched run, which has another error.")
_NOT_FOUND = "Marking a few tensors at a time, in {} runs, did not find the layer: {}."


def region_note(search: Search) -> str:
    """What came of searching the deployed run, in a sentence or two."""
    region = search.region
    if region is None:
        return _NOT_FOUND.format(search.runs, search.reason)
    nodes = [node.label for node in region.nodes]
    named = ", ".join(nodes[:3]) + (f" and {len(nodes) - 3} more nodes" if len(nodes) > 3 else "")
    error = "an unknown amount" if region.comparison is None else f"{number(region.comparison.rel_l2)}"
    return _FOUND.format(search.runs, named, ", ".join(map(repr, region.right)) or "the inputs", region.wrong, error)


def worst_of(found: Sequence[Candidate]) -> Candidate:
    """One candidate out of several samples' of the same: of every tensor and output the worst figures."""
    if len(found) == 1:
        return found[0]
    broken = next((c for c in found if c.status != "ok"), None)
    measured = [c for c in found if c.tensors] or list(found)
    base = broken or next((c for c in measured if c.verdict == "divergence"), measured[0])
    bad = [c.first_bad for c in measured if c.first_bad is not None]
    named = [b for b in bad if b.kind == "implementation"] or bad
    return replace(
        base,
        watching_moved_outputs=max((c.watching_moved_outputs for c in measured if c.watching_moved_outputs is not None),
                                   default=None),
        outputs=_worst_rows([c.outputs for c in measured]), tensors=_worst_rows([c.tensors for c in measured]),
        first_bad=min(named, key=lambda b: b.index, default=None),
        notes=tuple(dict.fromkeys(n for c in found for n in c.notes)))


def with_shares(candidate: Candidate, pooled: Pooled) -> Candidate:
    """The candidate with how far its output error is accounted for, and each tensor's share of it."""
    summary = Attribution(
        pooled.sum, pooled.sum_abs, pooled.residual, pooled.slope_rule, pooled.samples, pooled.residual_abs,
        pooled.residual_at, pooled.flips, pooled.withheld)
    rows = tuple(replace(row, share=pooled.shares.get(row.tensor)) for row in candidate.tensors)
    return replace(candidate, attribution=summary, tensors=rows)


def with_energies(candidate: Candidate, prices: Mapping[str, float]) -> Candidate:
    """The candidate with what each layer alone in lower precision does to the outputs, as squared relative errors."""
    rows = tuple(replace(row, energy=prices[row.tensor] ** 2) if row.tensor in prices else row
                 for row in candidate.tensors)
    return replace(candidate, tensors=rows)


def with_places(report: Report, places: Mapping[str, Place]) -> Report:
    """The report with source lines and module paths, by tensor, where the graph itself did not know them."""
    ladder = tuple(replace(rung, first_bad=_traced(rung.first_bad, places)) for rung in report.ladder)
    return with_modules(
        replace(report, candidates=tuple(_placed(c, places) for c in report.candidates), ladder=ladder))


def _traced(found: FirstBad | None, places: Mapping[str, Place]) -> FirstBad | None:
    place = places.get(found.tensor, Place()) if found is not None else Place()
    return None if found is None else replace(found, source=found.source or place.source)


def _placed(candidate: Candidate, places: Mapping[str, Place]) -> Candidate:
    def row(layer: Layer) -> Layer:
        place = places.get(layer.tensor, Place())
        return replace(layer, source=layer.source or place.source, module=layer.module or _module(place))

    return replace(candidate, outputs=tuple(map(row, candidate.outputs)), tensors=tuple(map(row, candidate.tensors)),
                   first_bad=_traced(candidate.first_bad, places))


def _module(place: Place) -> str | None:
    """A module's path; None where nothing is known of the place."""
    return place.module if place.module or place.file else None


def _worst_rows(samples: Sequence[Sequence[Layer]]) -> tuple[Layer, ...]:
    rows: dict[str, Layer] = {}
    for layer in (layer for sample in samples for layer in sample):
        held = rows.get(layer.tensor)
        if held is None or _badness(layer) > _badness(held):
            rows[layer.tensor] = layer
    return tuple(rows.values())


def _badness(layer: Layer) -> tuple[bool, float, float]:
    ratio = math.inf
    if layer.implementation is not None and layer.floor is not None:
        ratio = layer.implementation / layer.floor if layer.floor else (math.inf if layer.implementation else 0.0)
    accumulated = math.inf if layer.accumulated is None else layer.accumulated.rel_l2
    return not layer.passed, ratio, accumulated
