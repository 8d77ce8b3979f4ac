"""The fixture: runs comparisons for one test and turns what they came to into a pass, a failure or a skip."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

import pytest

from parity.asked import is_file
from parity.errors import Diverged, ParityError
from parity.pytest_plugin.case import Case, Keeping, matches, slug

if TYPE_CHECKING:
    from parity.asked import AnyInputs, AnyLabels, AnyModel, AnySamples, AnySource, AnyTolerance
    from parity.pytest_plugin.check import Outcome
    from parity.report.record import Report

FOLDER: Final = "parity_baselines"
TARGETS: Final = pytest.StashKey[list[str]]()  # of --parity-targets
NOTE: Final = "parity_note"  # the user property under which a test's notes reach the summary, from xdist's workers too
_DEFAULT: Final = "onnxruntime"  # where a candidate that is a model runs


class Parity:
    """What the fixture `parity` gives a test.

    Attributes:
        reports: of the test's comparisons so far, a marker's first.
        missing: why comparisons that a test allows to be left out were.
    """

    def __init__(self, item: pytest.Item) -> None:
        self.reports: list[Report] = []
        self.missing: list[str] = []
        self._item = item
        # As in one process: with `--dist loadgroup`, `item.nodeid` in a worker of xdist's ends in the group's name.
        self._id = item.nodeid if item.parent is None else f"{item.parent.nodeid}::{item.name}"
        self._calls: Counter[str] = Counter()

    @property
    def report(self) -> Report:
        """The report of the newest comparison.

        Raises:
            IndexError: there was none yet.
        """
        return self.reports[-1]

    def assert_parity(
            self, model: AnyModel | AnySource, candidates: Sequence[AnyModel] = (_DEFAULT,),
            inputs: AnyInputs | None = None, *, tolerance: AnyTolerance = (), allow: Sequence[str] = (),
            reference: str = "pytorch", judges: Sequence[str] = (), labels: AnyLabels | None = None,
            calibration: AnySamples | None = None, shapes: Mapping[str, Sequence[int]] | None = None, samples: int = 1,
            seed: int = 0, optimization: str = "all", threads: int | None = None, fixes: bool = True,
            strict: bool = False, baseline: Keeping = "optional") -> Report:
        """Fail unless every candidate is within tolerance, and none is worse than its baseline.

            def test_cnn(parity):
                parity.assert_parity("cnn.onnx", ["onnxruntime", "tensorrt:fp16"], allow=["tensorrt"])

        Args:
            model: the reference, and all else that is not named here: as for `parity.compare`.
            candidates: as for `parity.compare`; one that cannot run fails the test.
            inputs: as for `parity.compare`; None for seeded ones.
            tolerance: as for `parity.compare`.
            allow: targets, or backends in any precision, that may be missing on this machine: the others are compared,
                and the test is then reported as skipped with the reason, unless it fails.
            reference: target of the reference.
            judges: what `--judge` takes.
            labels: class labels, or a file of them.
            calibration: samples for INT8 ranges, or a file or folder.
            shapes: of seeded inputs.
            samples: how many seeded inputs.
            seed: for these.
            optimization: graph optimisation of the runtime.
            threads: within an operator; None for one a core.
            fixes: look for a fix of what diverges in lower precision, to tell it in the message.
            strict: fail on a layer that is wrong by itself even where the outputs hide it.
            baseline: "optional" holds the figures against the baseline where there is one, "required" fails where
                there is none, "off" leaves it alone.

        Returns:
            The report.

        Raises:
            Diverged: it is not so; the message says where, why and what to do.
            ParityError: an argument makes no sense, the reference cannot run, or a baseline cannot be read.
        """
        __tracebackhide__ = True
        try:
            outcome = self.run(Case(
                model, candidates, inputs, reference, tolerance, judges, labels, calibration, shapes, samples, seed,
                optimization, threads, fixes, allow, strict, baseline))
        except ParityError as error:
            raise error.with_traceback(None) from None  # the same error, without frames of parity's own or below it
        if outcome.failure:
            raise Diverged(outcome.failure)
        return outcome.report

    def run(self, case: Case) -> Outcome:
        """Compare, and note what the session is to be told; whether it passed is in the outcome.

        Raises:
            ParityError: as `assert_parity`.
            Skipped: nothing of it can run here, and the test allows that.
        """
        __tracebackhide__ = True
        from parity.pytest_plugin.check import Place, check

        wanted = self._item.config.stash[TARGETS]
        chosen = _chosen(case.candidates, wanted)
        if not chosen:
            self._skip([f"--parity-targets {','.join(wanted)} leaves nothing to compare"])
        case = replace(case, candidates=chosen)
        name = slug(self._id.partition("::")[2])
        self._calls[name] += 1
        name += f"~{self._calls[name]}" if self._calls[name] > 1 else ""  # a sign that no name keeps
        config, path = self._item.config, self._item.path
        given = config.getoption("parity_report")
        outcome = check(case, Place(
            self._typed(), config.invocation_params.dir, path.parent / FOLDER / path.stem / f"{name}.json",
            None if given is None else config.invocation_params.dir / given / _inside(self._id) / name,
            config.getoption("parity_update")))
        self.reports.append(outcome.report)
        self._note(outcome)
        self._item.user_properties.extend((NOTE, f"left out {reason}") for reason in outcome.missing)
        nothing_ran = all(c.status == "unavailable" for c in outcome.report.candidates)
        if outcome.missing and nothing_ran and not outcome.failure:
            self._skip(outcome.missing)
        self.missing.extend(outcome.missing)
        return outcome

    def _typed(self) -> str:
        """The test's id as it is typed in the folder that pytest was called in."""
        path = os.path.relpath(self._item.path, self._item.config.invocation_params.dir)
        return f"{path}::{self._id.partition('::')[2]}"

    def _skip(self, reasons: Iterable[str]) -> None:
        __tracebackhide__ = True
        self.missing.extend(reasons)
        pytest.skip("; ".join(self.missing))

    def _note(self, outcome: Outcome) -> None:
        told = [("parity_verdict", outcome.verdict), *((NOTE, note) for note in outcome.notes)]
        bad = next((c.first_bad.tensor for c in outcome.report.candidates if c.first_bad is not None), None)
        if bad is not None:
            told.append(("parity_first_bad", bad))
        if outcome.written is not None:
            told.append(("parity_report", str(outcome.written)))
        self._item.user_properties.extend(told)


def _chosen(candidates: Sequence[AnyModel], wanted: Sequence[str]) -> Sequence[AnyModel]:
    """The candidates that --parity-targets leaves: targets, and what runs on them."""
    if not wanted:
        return candidates
    targets = [c for c in candidates if isinstance(c, str) and not is_file(c)]
    kept = [t for t in targets if matches(t, wanted)]
    others = [c for c in candidates if not isinstance(c, str) or is_file(c)]
    runs = kept or (not targets and matches(_DEFAULT, wanted))
    return [*kept, *others] if runs else []


def _inside(nodeid: str) -> PurePath:
    """The test file's path as a folder that stays inside of another."""
    path = PurePath(nodeid.partition("::")[0]).with_suffix("")
    return PurePath(*(part for part in path.parts if part not in ("..", path.anchor)))
