"""How the tensor that a candidate names is called: one that is wrong, or where a format's errors pass the limit.

In a lower precision every layer may do as told, and the outputs fail nonetheless. The tensor that is named is then the
first whose *accumulated* error passes the tolerance: often one that adds nothing, behind others that add most.
"""

from __future__ import annotations

from collections.abc import Sequence

from parity.report import shares, words
from parity.report.record import Candidate, Layer

_GATHERED = "precision: the number format, layer by layer: no single layer is wrong"
_SOURCES = 3  # layers that a sentence lists


def gathered(candidate: Candidate) -> bool:
    """Whether the named tensor is but where a format's errors pass the tolerance, and not the layer that adds most."""
    found, layer = candidate.first_bad, words.blamed_layer(candidate)
    if found is None or found.kind != "precision":
        return False
    if layer is not None and shares.shown(candidate) is not None:
        return (layer.share or 0) < max((row.share or 0 for row in candidate.tensors), default=0)
    if found.local is None or found.accumulated is None:
        return True
    return not 2 * found.local.rel_l2 ** 2 >= found.accumulated.rel_l2 ** 2  # errors add up as squares


def title(candidate: Candidate) -> str:
    """What the section about the named tensor is called, and its column, in short."""
    return "First beyond tolerance" if gathered(candidate) else "First bad layer"


def around(candidate: Candidate) -> tuple[str, str]:
    """What to put before and after the tensor's name where it stands alone."""
    if gathered(candidate):
        return "beyond tolerance from ", " on"
    return "", words.or_hidden(candidate.first_bad) if candidate.first_bad else ""


def called(candidate: Candidate) -> str:
    """The named tensor with its operator, and what it is; empty where none is named."""
    found = candidate.first_bad
    if found is None:
        return ""
    return f"beyond tolerance from {words.tensor_op(found)} on" if gathered(candidate) else words.blamed(found)


def sentence(candidate: Candidate) -> str:
    """The named tensor in a sentence, and where most of the error comes from where that is elsewhere."""
    if not gathered(candidate):
        return f"First bad layer: {called(candidate)}."
    beside = sources(candidate)
    return f"B{called(candidate)[1:]}{f': {beside}' if beside else ''}."


def kind(candidate: Candidate) -> str:
    """What is wrong, in words; empty where no tensor is named."""
    found = candidate.first_bad
    return "" if found is None else _GATHERED if gathered(candidate) else words.KINDS[found.kind]


def sources(candidate: Candidate) -> str:
    """Which layers the output error comes from; empty where shares are not known or mislead."""
    found = shares.shown(candidate)
    if found is None or found.sum_abs > shares.MISLEADING:
        return ""
    ranked = sorted((row for row in candidate.tensors if (row.share or 0) > 0), key=lambda row: -(row.share or 0))
    named = ranked[:next((count for count in range(1, _SOURCES) if _together(ranked[:count]) > 0.5), _SOURCES)]
    if not named:
        return ""
    parts = [f"{words.short(row.tensor)} ({shares.percent(row.share or 0).lstrip('+')})" for row in named]
    listed = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
    most = _together(named) > 0.5
    return f"{'most' if most else 'the largest parts'} of the output error {'comes' if most else 'come'} from {listed}"


def as_deployed(candidate: Candidate) -> bool:
    """Whether the named tensor was found in the deployed run, so that the other figures are of another, watched one."""
    found, layer = candidate.first_bad, words.blamed_layer(candidate)
    return (found is not None and found.kind != "export" and found.local is None and layer is not None
            and layer.local is None and found.accumulated is not None)


def figures(candidate: Candidate) -> list[tuple[str, str]]:
    """The named tensor's figures as (label, value), in reading order; none where none is named."""
    found, layer = candidate.first_bad, words.blamed_layer(candidate)
    if found is None:
        return []
    rows = [("region", f"{words.region(found)}; only the last is visible")] if found.region else []
    rows.append(("kind", kind(candidate)))
    if gathered(candidate) and (beside := sources(candidate)):
        rows.append(("share", beside))
    if found.local is not None:
        rows += local_error(layer, found.local.rel_l2)
    if found.accumulated is not None:
        at = ", ".join(map(str, found.accumulated.worst))
        rows.append(("accumulated error", words.number(found.accumulated.rel_l2)))
        rows.append(("largest difference", f"{words.number(found.accumulated.max_abs)} at [{at}]"))
        if found.accumulated.mismatched_nonfinite:
            rows.append(("non-finite", (f"Inf or NaN on one side only at "
                                       f"{words.plural(found.accumulated.mismatched_nonfinite, 'element')}")))
    source = found.source or (layer.source if layer else None)
    rows.append(("source", words.visible(source or "not recorded in the model")))
    return rows


def local_error(layer: Layer | None, whole: float) -> Sequence[tuple[str, str]]:
    """A local error as (label, value): judged as a whole, or in a lower precision by what its format leaves.

    The format's error and the rest are distances of their own and no parts: they need not add up to the whole.
    """
    if layer is None:
        return [("local error", words.number(whole))]
    if layer.precision is None:
        return [("local error", words.accepted(layer))]
    return [("local error", words.number(whole)), ("the format alone", words.number(layer.precision)),
            ("the rest", words.accepted(layer))]


def _together(layers: Sequence[Layer]) -> float:
    return sum(layer.share or 0 for layer in layers)
