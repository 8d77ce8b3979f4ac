"""How the tensor that a candidate names is called."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parity.errors import Diverged
from parity.graph.model import Model
from parity.report import answer, named
from parity.report.annotate import annotated
from parity.report.assemble import blamed_row
from parity.report.html import render
from parity.report.record import Attribution, Candidate, FirstBad, Layer, Report
from parity.report.summary import summary
from tests.builders import declared, node, proto_of
from tests.report import samples
from tests.report.test_text import printed


def row(tensor: str, accumulated: float, local: float, share: float | None) -> Layer:
    """A tensor of an INT8 network in which no layer is wrong by itself."""
    return replace(samples.layer(0, local, accumulated, tensor=tensor), passed=True, share=share, precision=local,
                   implementation=4e-8, floor=3e-7, origin="inherited" if accumulated > 0.01 else None)


def int8(shares: tuple[float | None, ...] = (0.31, 0.0, 0.28), at: int = 1) -> Candidate:
    """INT8 beyond a limit of 0.01, named at the tensor `at` of conv, norm, conv2."""
    rows = tuple(map(row, ("conv", "norm", "conv2"), (0.009, 0.0115, 0.0185), (0.009, 6e-8, 0.0141), shares))
    known = None if shares[0] is None else Attribution(0.59, 0.6, 0.41, "trapezoid", 1)
    bad = FirstBad(rows[at].tensor, "n", "BatchNormalization", at, "precision", rows[at].accumulated, rows[at].local)
    return Candidate("onnxruntime:int8", "ok", verdict="divergence", outputs=(samples.output("logits", 0.0185, 0.01),),
                     tensors=rows, first_bad=bad, attribution=known)


def everywhere(report: Report) -> dict[str, str]:
    """What each renderer makes of a report, on one line each."""
    nodes = [node("Relu", ["x"], ["norm"]), node("Relu", ["norm"], ["conv2"]), node("Relu", ["norm"], ["y"])]
    model = Model.from_proto(proto_of(nodes, [declared("x", (3, 4))]))
    notes = [f"{p.key}: {p.value}" for n in annotated(model, report).proto.graph.node for p in n.metadata_props]
    with pytest.raises(Diverged) as told:
        report.raise_if_diverged()
    page = render(report).partition("<script")[0]
    texts = {"terminal": printed(report, 200), "summary": summary(report), "page": page, "message": str(told.value),
             "annotated": "; ".join(notes)}
    return {name: " ".join(text.split()) for name, text in texts.items()}


def test_an_innocent_layer_is_no_first_bad_one() -> None:
    """Where a format's errors only pass the limit there, every place says so, and none calls the layer bad."""
    report = samples.report(int8())
    assert answer.headline(report) == (
        "Divergence on onnxruntime:int8. Beyond tolerance from norm (BatchNormalization) on: most of the output error "
        "comes from conv (31.0%) and conv2 (28.0%).")
    for place, text in everywhere(report).items():
        assert "First bad layer: " not in text, place
        assert "not the runtime" not in text, place
        assert "eyond tolerance" in text, place
        assert place == "summary" or "no single layer is wrong" in text, place


@pytest.mark.parametrize("found", [int8((0.1, 0.5, 0.2)), int8((None, None, None), at=2)], ids=["share", "local"])
def test_the_layer_that_adds_most_is_the_first_bad_one(found: Candidate) -> None:
    """By its share, or where shares are not known by its local error, it is named in the simple words."""
    assert not named.gathered(found)
    assert answer.headline(samples.report(found)).startswith("Divergence on onnxruntime:int8. First bad layer: ")


def test_without_shares_the_local_error_says_whether_it_is_to_blame() -> None:
    """A layer that adds next to nothing is where the errors gather, though no share is known; none is then told."""
    found = int8((None, None, None))
    assert named.gathered(found)
    assert named.sentence(found) == "Beyond tolerance from norm (BatchNormalization) on."


def test_shares_that_cancel_name_no_layer() -> None:
    """Where single shares mislead, no layer is said to make most of the error; of many, the largest are."""
    found = int8()
    assert found.attribution is not None
    assert named.sources(replace(found, attribution=replace(found.attribution, sum_abs=5.0))) == ""
    assert named.sources(int8((0.2, 0.0, 0.21))) == (
        "the largest parts of the output error come from conv2 (21.0%) and conv (20.0%)")


def test_a_format_and_the_rest_are_no_parts() -> None:
    """Three distances stand side by side, and the one that is judged beside what is accepted."""
    fp16 = replace(row("y", 3e-4, 3.05e-4, None), precision=3.62e-4, implementation=3.34e-4, floor=0.00195)
    assert named.local_error(fp16, 3.05e-4) == [
        ("local error", "3.05e-4"), ("the format alone", "3.62e-4"),
        ("the rest", "3.34e-4, accepted up to 0.00195")]
    relu = replace(fp16, precision=None, implementation=0.0, floor=1e-38)
    assert named.local_error(relu, 0.0) == [("local error", "exact")]
    said = everywhere(samples.report(int8()))
    assert not any(part in text for text in said.values() for part in ("of it the", "of which", "up to exact"))
    assert "int8 local error: 0.0141; parity onnxruntime:int8 the format alone: 0.0141" in said["annotated"]


def test_what_was_found_in_the_deployed_run_is_not_ticked() -> None:
    """The named row is marked bad in the table beside the watched run's, and the title says whose figures it has."""
    found = int8()
    assert found.first_bad is not None
    bad = replace(found.first_bad, kind="implementation", local=None, accumulated=samples.comparison(0.465))
    deployed = blamed_row(found.tensors[1], bad, deployed=True)
    shown = replace(found, tensors=(found.tensors[0], deployed, found.tensors[2]), first_bad=bad)
    text = printed(samples.report(shown), 100)
    assert "Around it, watched; the named one as deployed" in text
    line = next(line for line in text.splitlines() if line.split()[:2] == ["✗", "norm"])
    assert "0.465" in line
    assert named.title(shown) == "First bad layer"
