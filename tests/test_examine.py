"""What is said of a run that watching changed."""

from __future__ import annotations

import pytest

from parity.examine import Examined, watching_notes
from parity.report.record import Candidate, FirstBad, Layer


def examined(moved: float | None, *, hidden: bool = False, limit: float | None = 0.1) -> Examined:
    """One sample with one output, which watching moved so far."""
    outputs = (Layer("y", "n", "Conv", 0, tolerance=limit),)
    return Examined(Candidate("onnxruntime", "ok", outputs=outputs, watching_moved_outputs=moved), hidden=hidden)


@pytest.mark.parametrize(("samples", "said"), [
    ([examined(None)], []),
    ([examined(0.001)], []),
    ([examined(0.02)], ["moved the outputs by 0.02"]),
    ([examined(0.02), examined(0.03), examined(0.001)], ["moved the outputs by 0.03"]),
    ([examined(0.3, hidden=True)], ["changes the result by as much as the error itself, so no layer is blamed:"]),
    ([examined(0.3, hidden=True), examined(0.02), examined(0.4, hidden=True)],
     ["changes the result of 2 of 3 samples by as much as the error itself, so no layer is blamed in these:",
      "moved the outputs by 0.02"]),
])
def test_watching_is_told_once_for_all_samples(samples: list[Examined], said: list[str]) -> None:
    """Each of the two sentences comes at most once, with the largest figure of the samples that it is about."""
    notes = watching_notes(samples)
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))


def test_searches_of_several_samples_are_one_note() -> None:
    """That of the earliest layer found; how many more there were is said, not each of them."""
    def searched(index: int | None, said: str) -> Examined:
        bad = None if index is None else FirstBad("c", "n", "Conv", index, "implementation", None, None)
        return Examined(Candidate("onnxruntime", "ok", first_bad=bad), hidden=True, searched=said)

    assert watching_notes([searched(3, "Found c.")]) == ("Found c.",)
    notes = watching_notes([searched(None, "Not found."), searched(7, "Found g."), searched(3, "Found c.")])
    assert notes[0] == "Found c. 2 more of the samples were searched likewise."
    assert len(notes) == 2
    assert "of 1 of 3 samples" in notes[1]
