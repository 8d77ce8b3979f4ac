"""Several runs side by side."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from parity.errors import UsageError
from parity.report import runs
from parity.report.html import render_runs
from parity.report.record import Candidate, Report
from tests.builders import CommandLine
from tests.report import samples
from tests.report.test_html import Page

INT8 = "onnxruntime:int8"
BEFORE = samples.report(samples.good(), replace(samples.bad(), target=INT8))
AFTER = samples.report(samples.good(), replace(samples.good(), target=INT8), samples.unavailable())
RUNS = {"before": BEFORE, "after": AFTER}


def test_a_target_is_followed_through_the_runs() -> None:
    """Targets are matched by name, with their worst error in each run and what became of them."""
    found = {course.target: course for course in runs.courses(RUNS)}
    assert list(found) == ["onnxruntime", INT8, "tensorrt:fp16"]
    assert found[INT8].errors == pytest.approx((312, 0.003), rel=1e-6)
    assert [course.change[1] for course in found.values()] == ["as before", "mended", "never ran"]
    assert {c.target: c.change[1] for c in runs.courses({"a": AFTER, "b": BEFORE})}[INT8] == "broke"


def test_two_devices_are_one_course() -> None:
    """Where each run has one target and none is shared, they are held against each other."""
    one, other = samples.report(samples.good()), samples.report(samples.bad())
    (course,) = runs.courses({"cpu": one, "gpu": other})
    assert course.target == "onnxruntime → onnxruntime:fp16"
    assert course.change == ("bad", "broke")


def test_the_headline_counts_what_changed() -> None:
    """It says what broke before what was mended."""
    assert runs.headline(RUNS) == "From before to after: 1 target mended, 1 target as before."
    assert runs.mark(RUNS) == "good"
    assert runs.headline({"a": samples.report(), "b": AFTER}) == "From a to b: no target is in more than one run."


def test_runs_that_are_not_alike_are_told() -> None:
    """Of another model, or on other inputs, a difference may come from that; what was otherwise between is said."""
    first = samples.report()
    other = replace(first, model=replace(first.model, sha256="0" * 64), seed=first.seed + 1)
    assert runs.headline({"a": first, "b": other}).endswith(" They are of different models and inputs.")
    assert "different" not in runs.headline({"a": first, "b": first})
    bad, good = samples.bad(), replace(samples.bad(), verdict="parity", first_bad=None, outputs=())
    assert runs.Course("t", (bad, good, bad), ("", "", "")).change[1] == "as at first, but not in between"



def test_layers_that_changed_most_come_first() -> None:
    """The mended layer leads; rounding noise is no change."""
    found = runs.shifts(RUNS, 5)
    assert found[0].after.tensor == "/layer2/BatchNormalization_17_output_0"
    assert found[0].before.local is not None
    assert found[0].before.local.rel_l2 == pytest.approx(0.02)
    assert runs.shifts({"a": AFTER, "b": AFTER}, 5) == []


def reports(before: Candidate, after: Candidate) -> dict[str, Report]:
    """Runs of two models, one of each candidate."""
    first, last = samples.report(before), samples.report(after)
    return {"before": first, "after": replace(last, model=replace(last.model, sha256="0" * 64))}


def test_layers_of_unlike_models_are_not_compared() -> None:
    """Another network whose tensors have the same names broke nothing, and no layer of it is said to have changed."""
    before = replace(samples.good(), target=INT8)
    other = replace(samples.bad(), target=INT8, tensors=tuple(
        replace(layer, shape=(64, 24, 8, 8)) for layer in samples.bad().tensors))
    shown = reports(before, other)
    assert [course.change for course in runs.courses(shown)] == [("none", "of another model")]
    assert runs.headline(shown) == "From before to after: 1 target of another model. They are of different models."
    assert runs.shifts(shown, 5) == []
    assert "changed most" not in "\n".join(runs.lines(shown))
    assert "so no layers are compared" in render_runs(shown)


def test_a_mended_model_is_compared_with_the_one_before() -> None:
    """Of two versions of a model, layers that are alike are compared and others are not; the batch may differ."""
    before = replace(samples.bad(), target=INT8)
    tensors = [replace(layer, shape=(4, *layer.shape[1:])) for layer in samples.good().tensors]
    tensors[17] = replace(tensors[17], op="LayerNormalization")
    renamed = tuple(replace(layer, tensor=f"new{i}") for i, layer in enumerate(tensors))
    (course,) = runs.courses(reports(before, replace(samples.good(), target=INT8, tensors=tuple(tensors))))
    assert course.change == ("good", "mended")
    assert [first.tensor for first, _ in course.shared] == [t.tensor for i, t in enumerate(tensors) if i != 17]
    (course,) = runs.courses(reports(before, replace(samples.good(), target=INT8, tensors=renamed)))
    assert course.change == ("good", "mended")
    assert course.shared == []


def test_nan_is_worse_than_any_error() -> None:
    """A target whose outputs became NaN has NaN as its worst error, and its layers stand among the changed."""
    broken = samples.report(replace(samples.nonfinite(), target="onnxruntime"))
    course = runs.courses({"a": samples.report(samples.good(4)), "b": broken})[0]
    assert course.errors[1] == math.inf
    assert course.change == ("bad", "broke")


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    """Files of one name go by their folders, others by their own, and one file twice by its place."""
    paths = [tmp_path / "a" / "report.json", tmp_path / "b" / "report.json", tmp_path / "c.json"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(BEFORE.to_json(), encoding="utf-8")
    assert list(runs.load(paths[:2])) == ["a", "b"]
    assert list(runs.load([paths[0], paths[2]])) == ["report", "c"]
    assert list(runs.load([paths[2], paths[2]])) == ["c 1", "c 2"]
    with pytest.raises(UsageError, match="cannot read"):
        runs.load([tmp_path / "absent.json", paths[0]])


def test_the_page_holds_every_run() -> None:
    """Each run's answer and facts, each target through them, and all candidates under their run's name."""
    shown = Page(render_runs(RUNS))
    for said in ("From before to after: 1 target mended", "Layers that changed most", f"before · {INT8}",
                 f"after · {INT8}", "0.02 → ", "implementation → not to blame"):
        assert said in shown.text
    data = shown.data()
    assert data["runs"] == ["before", "after"]
    assert data["history"][1] == [INT8, 312.0, 0.003]
    assert len(data["candidates"]) == 4


def test_hostile_runs_show_as_text() -> None:
    """Names of runs and of what is in them make no element."""
    hostile = {samples.HOSTILE[0]: samples.EVERY["hostile findings"], samples.HOSTILE[1]: samples.EVERY["hostile"]}
    shown, tame = Page(render_runs(hostile)), Page(render_runs({"a": samples.EVERY["no fix"], "b": BEFORE}))
    assert {tag for tag, _ in shown.elements} <= {tag for tag, _ in tame.elements}
    assert not set("<>&") & set(shown.holding("data"))
    assert samples.HOSTILE[0] in shown.text


def test_the_command_sets_runs_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    """`parity report a.json b.json` prints what changed and writes one page of both."""
    paths = [tmp_path / f"{name}.json" for name in RUNS]
    for path, report in zip(paths, RUNS.values(), strict=True):
        path.write_text(report.to_json(), encoding="utf-8")
    done = CommandLine(tmp_path, monkeypatch, capsys)("report", *paths, "-o", tmp_path / "both")
    assert done.status == 0
    assert "error 312 → 0.003 of its limit, mended" in done.out
    assert "/layer2/BatchNormalization_17_output_0 (BatchNormalization)" in done.out
    assert "From before to after" in (tmp_path / "both" / "runs.html").read_text(encoding="utf-8")


def test_the_merged_report_reads_back() -> None:
    """What is shown of several runs is a report like any other."""
    merged = runs.merged(RUNS)
    assert Report.from_json(merged.to_json()) == merged
