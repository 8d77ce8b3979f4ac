"""The Report: everything a run measured, frozen, and its JSON form (`schema_version` 1).

Strict JSON has no NaN or infinity, so a non-finite number is written as "nan", "inf" or "-inf".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from parity.analysis.diagnose import Diagnosis
from parity.analysis.localize import Kind as Kind  # noqa: PLC0414 - renderers take it from here
from parity.backends.base import CompiledLayer
from parity.backends.latency import Latency
from parity.errors import Diverged, UsageError
from parity.fixes.fix import Fix
from parity.report.codec import decode, encode
from parity.report.facts import InputFacts as InputFacts  # noqa: PLC0414 - renderers take these from here, too
from parity.report.facts import ModelFacts as ModelFacts  # noqa: PLC0414
from parity.report.layer import FirstBad as FirstBad  # noqa: PLC0414 - as is the next
from parity.report.layer import Layer as Layer  # noqa: PLC0414
from parity.report.rungs import ModuleErrors
from parity.report.rungs import Rung as Rung  # noqa: PLC0414

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

Verdict = Literal["parity", "divergence", "error"]
Status = Literal["ok", "unavailable", "failed"]


@dataclass(frozen=True)
class Attribution:
    """How far the shares of the output error add up; the shares themselves stand with the layers.

    Attributes:
        sum: of all shares; with `residual` it is 1.
        sum_abs: of their magnitudes; beyond 2, layers cancel each other and single shares mislead.
        residual: what the averaged slopes miss, as a share.
        slope_rule: how slopes were averaged.
        samples: how many feeds were pooled.
        residual_abs: of the magnitudes of what the slopes miss at each node.
        residual_at: the tensor at which most is missed; None where nothing is.
        flips: layers whose share changes its sign from feed to feed.
        withheld: why no shares are shown; empty where they are.
    """

    sum: float
    sum_abs: float
    residual: float
    slope_rule: str
    samples: int
    residual_abs: float = 0.0
    residual_at: str | None = None
    flips: int = 0
    withheld: str = ""


@dataclass(frozen=True)
class TaskAccuracy:
    """How often the arg-max of an output equals the label, on either side (fractions of `samples`)."""

    output: str
    reference: float
    candidate: float
    samples: int


@dataclass(frozen=True)
class TaskResult:
    """An output judged as its users judge it.

    Attributes:
        judge: which one, e.g. "top1".
        output: ONNX name of the output.
        value: its figure.
        limit: what the user asked for, if anything.
        passed: whether the figure keeps to it.
        detail: figures beside it, by name.
    """

    judge: str
    output: str
    value: float
    limit: float | None
    passed: bool
    detail: Mapping[str, float]


@dataclass(frozen=True)
class Candidate:
    """One target held against the reference.

    Attributes:
        target: as on the command line, e.g. "onnxruntime:fp16".
        status: "ok", or why there are no figures.
        reason: for an unavailable or failed target, what happened and what to do.
        emulated: a forecast computed without the runtime that it is about.
        verdict: the outputs decide, from the run that nobody watched.
        watching_moved_outputs: largest relative L2 distance between watched and unwatched outputs.
        outputs: the graph outputs, unwatched.
        tensors: every tensor that both sides show, in the reference's order.
        first_bad: the earliest tensor to blame.
        version: of the runtime.
        device: that it ran on.
        seconds: wall time of one plain run.
        latency: of plain runs after a warm-up; None for what is emulated or was taken elsewhere.
        notes: plain sentences that a reader should know.
        accuracy: where labels were given.
        tasks: the outputs judged as was asked for.
        compiled: what the runtime made of the model: its layers, the nodes that each computes, its element types.
        modules: the errors of the tensors by module of the user's code, where that is known; outer before inner ones.
    """

    target: str
    status: Status
    reason: str = ""
    emulated: bool = False
    verdict: Verdict = "error"
    watching_moved_outputs: float | None = None
    outputs: tuple[Layer, ...] = ()
    tensors: tuple[Layer, ...] = ()
    first_bad: FirstBad | None = None
    attribution: Attribution | None = None
    diagnoses: tuple[Diagnosis, ...] = ()
    fixes: tuple[Fix, ...] = ()
    version: str = ""
    device: str = ""
    seconds: float | None = None
    latency: Latency | None = None
    notes: tuple[str, ...] = ()
    accuracy: tuple[TaskAccuracy, ...] = ()
    tasks: tuple[TaskResult, ...] = ()
    model: ModelFacts | None = None
    asked: bool = True
    compiled: tuple[CompiledLayer, ...] = ()
    modules: tuple[ModuleErrors, ...] = ()


@dataclass(frozen=True)
class Reference:
    """The side that is right by definition."""

    target: str
    status: Status
    seconds: float | None = None


@dataclass(frozen=True)
class Report:
    """The whole result of one run.

    Attributes:
        verdict: "divergence" when an asked-for or real candidate's outputs fail, "error" when nothing could run.
        partial: the run was interrupted; what is here was measured before that.
        proposals: judges that seem to fit the outputs, in words; none was assumed.
        reads: the tensors that the node of each tensor reads, weights aside.
        ladder: where on the way to deployment the error enters, the truth first.
    """

    verdict: Verdict
    model: ModelFacts
    inputs: tuple[InputFacts, ...]
    seed: int
    environment: Mapping[str, str]
    reference: Reference
    candidates: tuple[Candidate, ...]
    command: str = ""
    samples: int = 1
    partial: bool = False
    proposals: tuple[str, ...] = ()
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ladder: tuple[Rung, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def layers(self) -> pd.DataFrame:
        """Every tensor of every candidate that ran, a row each, under the columns of layers.csv."""
        from parity.report.table import layers_frame

        return layers_frame(self)

    @property
    def failing(self) -> tuple[Candidate, ...]:
        """The candidates that keep the run from being parity, the one to look at first in front.

        A forecast counts only where it was asked for, and what was asked for counts where it could not run.
        """
        deciding = [c for c in self.candidates if c.asked or not c.emulated]
        return tuple(sorted((c for c in deciding if c.verdict == "divergence" or (c.asked and c.status != "ok")),
                            key=lambda c: c.verdict != "divergence"))

    def raise_if_diverged(self) -> None:
        """Do nothing where the run found parity.

        Raises:
            Diverged: a candidate is beyond its tolerance, or one that was asked for could not run; says in about ten
                lines which, where, why, and what mends it.
        """
        failing = self.failing
        if failing or self.verdict != "parity":
            from parity.report.message import failure

            raise Diverged(failure(self, failing or self.candidates))

    def to_json(self) -> str:
        """The report as strict JSON."""
        return json.dumps(encode(self), indent=1, allow_nan=False, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> Report:
        """Read a report back; `Report.from_json(r.to_json()) == r`.

        Raises:
            UsageError: not JSON, not a report, or of another schema version.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"not a JSON file ({error})", "Give the report.json of `parity compare`.") from error
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise UsageError(f"not a parity report of schema version {SCHEMA_VERSION} (found {version!r})",
                             "Run `parity compare` again with this version.")
        try:
            return decode(data, Report)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"the report is damaged ({error})", "Run `parity compare` again.") from error

    @staticmethod
    def load(path: str | PathLike[str]) -> Report:
        """Read a report.json.

        Raises:
            UsageError: the file is missing, or not a report.
        """
        try:
            return Report.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            hint = f"Give {Path(path) / 'report.json'}." if Path(path).is_dir() else "Check the path."
            raise UsageError(f"cannot read {path} ({error.strerror or error})", hint) from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is no report", "Give the report.json of `parity compare`.") from error
