"""The headline and the next step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parity.analysis.diagnose import Diagnosis
from parity.errors import Diverged
from parity.report import answer
from parity.report.html import render
from parity.report.record import FirstBad, ModelFacts, Report
from parity.report.summary import summary
from tests.report import samples
from tests.report.test_text import printed


def low(precision: str = "int8", **said: object) -> Report:
    """A comparison that diverges because of the number format."""
    bad = samples.bad()
    assert bad.first_bad is not None
    found: FirstBad = replace(bad.first_bad, kind="precision")
    return samples.report(replace(bad, target=f"onnxruntime:{precision}", first_bad=found, **said))  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_a_divergence_of_a_format_leads_to_fix(precision: str) -> None:
    """Where a lower precision diverges and no fix was tried, the next step is the command that looks for one."""
    assert answer.next_step(low(precision)).startswith(
        f"`parity fix fixtures/cnn.onnx --for onnxruntime:{precision}` looks for")


def test_a_remedy_that_a_cause_names_is_the_next_step() -> None:
    """Sums that saturate are avoided by weights of 7 bits, which comes before a search for layers to keep."""
    said = answer.next_step(low(diagnoses=(Diagnosis("int8-saturation", "y", "Sums saturate.", {}),)))
    assert said.startswith("Quantise with weights in 7 bits (`reduce_range`)")
    assert "looks for the fewest layers" in said
    assert "7 bits" not in answer.next_step(low())


def test_what_cannot_be_fixed_does_not_lead_to_fix() -> None:
    """FP32, parity, and another file than the model itself are not for `parity fix`."""
    other = ModelFacts("other.onnx", "", 1, 1)
    for report in (samples.EVERY["parity"], samples.EVERY["hidden"], low(model=other),
                   samples.report(replace(samples.bad(), target="onnxruntime"))):
        assert "parity fix" not in answer.next_step(report)


def test_a_fault_among_hidden_nodes_is_not_pinned_on_one() -> None:
    """Every place that names the first bad layer says that a hidden node may be it, and leads there."""
    report = samples.EVERY["fused"]
    or_hidden, region = "or one of the 8 hidden nodes before it", "one of the 9 nodes after /layer1/Conv_8_output_0: "
    assert or_hidden in answer.headline(report)
    assert "Look between /layer1/Conv_8_output_0 and /layer2/BatchNormalization_17_output_0" in answer.next_step(report)
    with pytest.raises(Diverged) as told:
        report.raise_if_diverged()
    for text in (str(told.value), render(report)):
        assert or_hidden in text
        assert region in text
    assert region in " ".join(printed(report, 200).split())
    assert or_hidden in summary(report).partition("| target |")[2]


def test_a_path_is_quoted_for_the_shell() -> None:
    """A model's path with a space or a quote is one argument of the command."""
    report = low()
    spaced = replace(report, model=replace(report.model, path="my model's.onnx"))
    assert """`parity fix 'my model'"'"'s.onnx' --for onnxruntime:int8`""" in answer.next_step(spaced)


def test_a_comparison_that_proposes_a_fix() -> None:
    """The headline names the divergence, then the fix; the next step writes it."""
    report = samples.EVERY["explained"]
    assert answer.headline(report) == (
        "Divergence on onnxruntime:int8. First bad layer: /layer2/BatchNormalization_17_output_0 (BatchNormalization). "
        "A fix passes on onnxruntime:int8: 3 of 54 layers kept in FP32, error 4.2 → 0.8 of its limit.")
    assert answer.next_step(report) == "`parity fix fixtures/cnn.onnx --for onnxruntime:int8` writes the fixed model."
    assert answer.mark(report) == "bad"


def test_a_run_for_a_fix_that_passes() -> None:
    """The headline is about the fix alone, and the next step names the file."""
    report = samples.repaired()
    assert answer.headline(report) == (
        "A fix passes on onnxruntime:int8: 3 of 54 layers kept in FP32, error 4.2 → 0.8 of its limit.")
    assert answer.next_step(report) == "Deploy cnn.fixed.onnx: it is within tolerance on onnxruntime:int8."
    assert answer.mark(report) == "good"
    assert answer.is_repair(replace(report, command=""))


def test_a_run_for_a_fix_that_fails() -> None:
    """It is said plainly, with the best found and what to do: train, where there is a configuration for it."""
    report = samples.repaired(1.7)
    assert answer.headline(report).startswith("No fix passes on onnxruntime:int8. The best found: 3 of 54 layers")
    assert answer.next_step(report).startswith("Train with quantisation in the loop")
    assert answer.mark(report) == "bad"
    untrained = replace(report, candidates=(replace(report.candidates[0], fixes=tuple(
        replace(fix, training={}) for fix in report.candidates[0].fixes)),))
    assert answer.next_step(untrained).startswith("Let more layers be kept (--max-kept)")


def test_a_run_for_a_fix_that_found_none_or_needs_none() -> None:
    """Without any fix, the headline says whether one was needed."""
    command = "parity fix fixtures/cnn.onnx --for onnxruntime:int8"
    needless = replace(samples.report(samples.good()), command=command)
    assert answer.headline(needless).startswith("Nothing to fix: every output is within tolerance on onnxruntime")
    assert answer.mark(needless) == "good"
    assert answer.next_step(needless).startswith("Nothing to do")
    hopeless = replace(low(), command=command)
    assert answer.headline(hopeless) == "No fix was found on onnxruntime:int8."
    assert answer.mark(hopeless) == "bad"
    assert answer.next_step(hopeless).startswith("Let more layers be kept (--max-kept)")


def test_an_interrupted_run_for_a_fix() -> None:
    """Whatever was found until then, the next step is to run it again."""
    assert "run the same command again" in answer.next_step(replace(samples.repaired(), partial=True))


def test_a_very_long_name_is_shortened_in_sentences() -> None:
    """Its beginning and its end say which it is; the table and the details have all of it."""
    bad = samples.bad()
    assert bad.first_bad is not None
    name = "first/" + "x" * 500 + "/last"
    long = replace(bad, first_bad=replace(bad.first_bad, tensor=name, node=name, source=None))
    for said in (answer.next_step(samples.report(long)), answer.headline(samples.report(long))):
        assert len(said) < 300
        assert "first/" in said
        assert "x/last" in said
