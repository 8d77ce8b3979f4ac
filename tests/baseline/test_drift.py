"""Which tensors are worse than their baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from parity.baseline.drift import MARGIN, SHARE, better, partial_cover, uncovered, worse
from parity.baseline.message import regression
from parity.baseline.record import Baseline, Figures, baseline_of
from parity.report.record import Candidate, Report
from tests.report.samples import bad, comparison, good, layer, output, report


def one(error: float | None, own: float = 1e-8) -> Candidate:
    """A candidate of one tensor."""
    return replace(good(), tensors=(layer(0, own, error, tensor="t"),), outputs=())


def accepted(error: float | None, own: float | None = 1e-8, noise: float = 0.0) -> Baseline:
    """Its baseline."""
    return Baseline("m", "0", "1", (), 1, {}, {"t": Figures(error, own, noise)})


@given(st.floats(1e-9, 1e-2), st.floats(0, 1e-3), st.floats(1e-6, 10.0))
def test_an_error_may_grow_by_its_noise_and_a_share_of_itself(before: float, noise: float, beyond: float) -> None:
    """Up to the bound nothing is said, past it the tensor is named with its figures."""
    bound = before + MARGIN * noise + SHARE * before
    assert worse(accepted(before, noise=noise), one(bound * (1 - 1e-6))) == ()
    found = worse(accepted(before, noise=noise), one(bound * (1 + beyond)))
    assert [(d.layer.tensor, d.figure, d.before) for d in found] == [("t", "error", before)]
    assert found[0].now > found[0].before + found[0].noise


@given(st.floats(1e-6, 1.0), st.floats(0, 1e-3))
def test_better_is_worse_the_other_way_round(before: float, noise: float) -> None:
    """An error that fell by more than its noise is told, one that fell by less is not."""
    bound = before - MARGIN * noise - SHARE * before
    assert bool(better(accepted(before, noise=noise), one(bound * (1 - 1e-6)))) == (bound > 1e-15)
    assert better(accepted(before, noise=noise), one(max(bound, 0) + 1e-6 * before + 1e-12)) == ()


def test_what_a_layer_adds_by_itself_is_held_against_its_floor() -> None:
    """Even where the error that it is given hides it; and named before that."""
    found = worse(accepted(0.5, noise=0.1), one(0.5, own=1e-4))
    assert [(d.figure, d.now) for d in found] == [("own", comparison(1e-4).rel_l2)]
    assert worse(accepted(0.5, noise=0.1), one(0.5, own=1e-7)) == ()


def test_what_can_no_longer_be_compared_is_worse_and_what_is_new_is_not() -> None:
    """A tensor of another shape has no error; one without a baseline has nothing to be held against."""
    assert worse(accepted(1e-7), one(None))[0].now == math.inf
    assert worse(accepted(1e-7), one(math.nan))[0].now == math.inf
    assert worse(accepted(None, own=None), one(0.5)) == ()
    assert worse(replace(accepted(0.0), tensors={}), one(0.5)) == ()


def test_a_baseline_that_covers_nothing_is_told() -> None:
    """An output without a figure in it, or a run of whose tensors it knows none, is not held to anything."""
    now = good()
    whole = baseline_of(report(now), now, {})
    assert uncovered(whole, now) == ()
    assert uncovered(replace(whole, outputs={}), now) == ("logits",)
    assert uncovered(replace(whole, outputs={"logits": Figures(None, None, 0.0)}), now) == ("logits",)
    assert uncovered(replace(whole, tensors={}), now) == tuple(t.tensor for t in now.tensors[:3])
    some = dict(list(whole.tensors.items())[:1])
    assert uncovered(replace(whole, tensors=some), now) == ()


def test_tensors_that_came_and_went_are_counted() -> None:
    """What a baseline no longer covers is told by number; nothing where it covers all."""
    stored = accepted(1e-3)
    name, figures = next(iter(stored.tensors.items()))
    assert partial_cover(stored, one(1e-3)) == ""
    more = replace(stored, tensors={**stored.tensors, "old": figures})
    assert partial_cover(more, one(1e-3)) == f"1 of {len(more.tensors)} recorded tensors are gone"
    other = replace(stored, tensors={"old" if n == name else n: f for n, f in stored.tensors.items()})
    count = len(stored.tensors)
    assert partial_cover(other, one(1e-3)) == (
        f"1 of {count} recorded tensors are gone and 1 of {count} tensors now have no recorded figures")


def fault(noise: Mapping[str, float]) -> tuple[Report, Candidate, Baseline]:
    """A run with a fault at layer 17, within tolerance, and the baseline without."""
    now = replace(bad(), verdict="parity", outputs=(output("logits", 0.0312, limit=0.1),))
    return report(now), now, baseline_of(report(good()), good(), noise)


def test_the_layer_that_moved_comes_first() -> None:
    """The fault is found at its layer, though all after it are worse too."""
    _, now, baseline = fault({})
    found = [d for d in worse(baseline, now) if d.now > 1e-3]
    assert found[0].layer.index == 17
    assert found[-1].output
    assert len({d.layer.tensor for d in found}) == 24


def test_the_message_names_layer_figures_output_and_what_to_type() -> None:
    """About ten lines, the answer first."""
    shown, now, baseline = fault(dict.fromkeys((f.tensor for f in good().tensors), 1e-7))
    said = regression(shown, now, worse(baseline, now), baseline, Path("b.json"), "pytest t.py::test",
                      Path("out/report.html"))
    assert len(said.splitlines()) <= 12
    for part in ("worse than its baseline, while within tolerance", now.tensors[17].tensor, "model.py:27",
                 "what the layer itself adds is 0.02", "rounding explains", "output     logits", "limit 0.1",
                 "b.json; `pytest t.py::test --parity-update`", "out/report.html", "again      pytest t.py::test",
                 f"next       Find what changed at {now.tensors[17].tensor}",
                 "since then the same model and version of the runtime"):
        assert part in said
    assert "Nothing to do" not in said
    other = regression(shown, now, worse(baseline, now), replace(baseline, sha256="other", version="1.30"),
                       Path("b.json"), "pytest t.py::test")
    assert "the model is another file; the runtime was 1.30, is 1.31.1" in other
    memory = replace(shown, model=replace(shown.model, path="main_graph"))
    said = regression(memory, now, worse(baseline, now), replace(baseline, sha256="other"), Path("b.json"), "pytest t")
    assert "since then the model, which is in memory, is not the same to the byte" in said
