"""The answer to a whole run: the headline, which candidate to look at, and what to do next."""

from __future__ import annotations

import shlex
from pathlib import PurePath

from parity.report import named, repairs, words
from parity.report.record import Candidate, FirstBad, Report
from parity.targets import VARIANTS


def focus(report: Report) -> int | None:
    """Which candidate to show in detail: one that diverges, else one with a bad layer, else the first that ran."""
    ran = [i for i, candidate in enumerate(report.candidates) if candidate.status == "ok"]
    order: dict[words.Mark, int] = {"bad": 0, "warn": 1, "good": 2, "none": 3}
    return min(ran, key=lambda i: (report.candidates[i].emulated, order[words.mark(report.candidates[i])], i),
               default=None)


# How a command begins that compares, and perhaps proposes a fix.
_COMPARING = ("parity compare", "parity.compare", "pytest")


def is_repair(report: Report) -> bool:
    """Whether the run was for a fix, as `parity fix` is, rather than for a comparison that proposes one too."""
    if len(report.candidates) != 1 or report.candidates[0].status != "ok":
        return False
    asked = report.command.startswith("parity fix")
    return asked or (bool(report.candidates[0].fixes) and not report.command.startswith(_COMPARING))


def fixed_name(model: str) -> str:
    """What the fixed model of this path is called."""
    return f"{PurePath(model).stem}.fixed.onnx"


def mark(report: Report) -> words.Mark:
    """How the run went, at a glance."""
    if is_repair(report):
        mended = any(fix.passed for fix in report.candidates[0].fixes)
        return "good" if mended or words.mark(report.candidates[0]) == "good" else "bad"
    if report.verdict != "parity":
        return "bad" if report.verdict == "divergence" else "none"
    return "warn" if any(words.mark(candidate) == "warn" for candidate in report.candidates) else "good"


def headline(report: Report) -> str:
    """The answer to the whole run, in one or two sentences."""
    chosen = focus(report)
    shown = None if chosen is None else report.candidates[chosen]
    if is_repair(report):
        return _repair(report.candidates[0])
    if report.verdict == "divergence":
        bad = next((c for c in report.candidates if words.mark(c) == "bad" and not (c.emulated and not c.asked)), shown)
        if bad is None or bad.first_bad is None:
            return (f"Divergence{f' on {words.target(bad)}' if bad else ''}, and no single layer is to blame."
                    + (f" {_fix(bad)}" if bad else "")).strip()
        where = "of the export from its module" if bad.first_bad.kind == "export" else f"on {words.target(bad)}"
        return f"Divergence {where}. {named.sentence(bad)} {_fix(bad)}".strip()
    if report.verdict == "error":
        return "No verdict: nothing could be compared." if chosen is None else "No verdict: a target could not run."
    hidden = next((c for c in report.candidates if words.mark(c) == "warn"), None)
    if hidden is not None and hidden.first_bad is not None:
        return f"Parity at the outputs, but {words.blamed(hidden.first_bad)} is wrong on {words.target(hidden)}."
    return "Parity: every output is within tolerance and no layer is bad."


def _repair(candidate: Candidate) -> str:
    if candidate.fixes:
        return _fix(candidate)
    if words.mark(candidate) == "good":
        return f"Nothing to fix: every output is within tolerance on {words.target(candidate)} as it is."
    return f"No fix was found on {words.target(candidate)}."


def _fix(candidate: Candidate) -> str:
    found = repairs.best(candidate)
    return repairs.sentence(candidate, found) if found else ""


_SHARED = frozenset({"--input", "--labels", "--calibration", "--seed", "--shape", "--samples", "--tolerance", "--judge",
                     "--optimization", "--threads"})


def next_step(report: Report) -> str:
    """The next thing to do, as one sentence."""
    if report.partial:
        return "The run was interrupted: run the same command again for the whole answer."
    missing = next((c for c in report.candidates if c.status != "ok" and c.asked), None)
    chosen = focus(report)
    if report.verdict == "error" or chosen is None:
        return f"Make {words.visible(missing.target)} run ({words.line(missing.reason).rstrip('.')})." if missing else (
            "Check the targets.")
    shown = report.candidates[chosen]
    hidden = words.mark(shown) == "warn" and not shown.fixes
    return step_for(report, shown) + (" With --strict, the run fails on it." if hidden else "")


def step_for(report: Report, shown: Candidate) -> str:
    """The next thing to do about one candidate that ran."""
    if shown.fixes or (is_repair(report) and words.mark(shown) == "bad"):
        return _after_fix(report, shown)
    look = _look(shown)
    if words.mark(shown) != "bad" or not _fixable(shown):
        return look
    search = f"{_command(report, shown)} looks for the fewest layers to keep in higher precision, and tries them."
    remedy = _remedy(shown)
    implementation = shown.first_bad is not None and shown.first_bad.kind == "implementation"
    return " ".join([*[look] * (implementation and not remedy), *[remedy] * bool(remedy), search])


# What a cause itself says avoids it, as a step to take.
_REMEDIES = {"int8-saturation": "Quantise with weights in 7 bits (`reduce_range`): 16-bit sums then cannot saturate."}


def _remedy(shown: Candidate) -> str:
    return next((_REMEDIES[each.cause] for each in shown.diagnoses if each.cause in _REMEDIES), "")


def _look(shown: Candidate) -> str:
    found = shown.first_bad
    if found is None:
        return ("Nothing to do: the outputs agree." if words.mark(shown) == "good" else
                "Look in the layer table at where the accumulated error grows.")
    return _between(found) if found.region else _at(shown, found)


def _between(found: FirstBad) -> str:
    start = ", ".join(map(words.short, found.after[:2])) or "the weights"
    if found.kind == "export":
        return (f"Export again, and look at what becomes of {words.short(found.source or found.tensor)}: it is one of "
                f"{len(found.region):,} nodes between {start} and {words.short(found.tensor)}, and no runtime made "
                "this.")
    return (f"Look between {start} and {words.short(found.tensor)}: have more tensors of these "
            f"{len(found.region):,} nodes shown or saved.")


def _at(shown: Candidate, found: FirstBad) -> str:
    place = words.short(found.source or found.node or found.tensor)
    if named.gathered(shown):
        beside = named.sources(shown) or "the layer table shows which layers add most"
        return f"Look at the layers that add the error, and not at one: {beside}."
    op = words.visible(found.op) or "it"
    return {"implementation": f"Compare how {words.target(shown)} computes {op} at {place} with the model.",
            "precision": f"Look at the value range at {place}: the number format loses it.",
            "nonfinite": f"Look at what overflows at {place}: its inputs are still finite.",
            "export": f"Export again, and look at what becomes of {place}: no runtime made this."}[found.kind]


def _fixable(candidate: Candidate) -> bool:
    """Whether it is the user's model in a format that `parity fix` can raise for some layers, on finite inputs."""
    finite = all(d.cause != "nonfinite-input" for d in candidate.diagnoses)
    return finite and candidate.model is None and candidate.target.rpartition(":")[2] in VARIANTS


def _command(report: Report, candidate: Candidate) -> str:
    """`parity fix` for a candidate, on the inputs and with the limits of the comparison."""
    if report.command and not report.command.startswith("parity "):
        target = shlex.quote(words.visible(candidate.target))
        return f"`parity fix MODEL --for {target}`, with the model and its inputs in files,"
    model, target = (shlex.quote(words.visible(text)) for text in (report.model.path, candidate.target))
    return " ".join([f"`parity fix {model} --for {target}", *_same_options(report.command)]) + "`"


def _same_options(command: str) -> list[str]:
    """The options of a comparison that a search for a fix takes, too."""
    try:
        typed = shlex.split(command)
    except ValueError:  # a report that was edited
        return []
    pairs = [(text.partition("=")[0], [text] if "=" in text else typed[place:place + 2])
             for place, text in enumerate(typed) if text.startswith("--")]
    return [shlex.quote(words.visible(part)) for name, parts in pairs if name in _SHARED for part in parts]


def _after_fix(report: Report, candidate: Candidate) -> str:
    found = repairs.best(candidate)
    if found is None or not found.passed:
        train = found is not None and bool(found.training)
        first = ("Train with quantisation in the loop on the layers that the configuration names" if train else
                 "Let more layers be kept (--max-kept) or more sets be tried (--max-trials)")
        return f"{first}, give more calibration samples, or accept a wider tolerance."
    if is_repair(report):
        name = words.visible(fixed_name(report.model.path))
        return f"Deploy {name}: it is within tolerance on {words.target(candidate)}."
    return f"{_command(report, candidate)} writes the fixed model."
