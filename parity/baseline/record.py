"""A baseline and its file: JSON that a reviewer can read, a tensor a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from math import inf, isfinite
from pathlib import Path
from typing import TypeAlias

from parity.errors import UsageError
from parity.report.codec import decode, encode
from parity.report.record import Candidate, Layer, Report
from parity.report.words import own_error
from parity.report.write import ensure_writable, write_whole

SCHEMA_VERSION = 1
_DIGITS = Context(prec=3, rounding=ROUND_CEILING)


@dataclass(frozen=True)
class Figures:
    """What was accepted of one tensor.

    Attributes:
        error: relative L2 distance from the reference, everything upstream included; None where it had none.
        own: the part of it that the layer adds by itself and its number format does not explain; None where it is
            not judged.
        noise: the relative L2 distance by which rounding may move the tensor.
    """

    error: float | None
    own: float | None
    noise: float


@dataclass(frozen=True)
class Baseline:
    """What was accepted of one model on one target.

    Attributes:
        model: the file's name.
        sha256: of the model.
        version: of the runtime.
        inputs: each as "name dtype shape", with the seed of seeded ones.
        samples: how many of them.
        outputs: the graph outputs of the run that nobody watched.
        tensors: every tensor that the target showed, in the order of the graph.
    """

    model: str
    sha256: str
    version: str
    inputs: tuple[str, ...]
    samples: int
    outputs: Mapping[str, Figures]
    tensors: Mapping[str, Figures]


Baselines: TypeAlias = Mapping[str, Baseline]


def baseline_of(report: Report, candidate: Candidate, noise: Mapping[str, float]) -> Baseline:
    """A candidate's figures as a baseline, rounded upwards to three digits.

    Args:
        report: the run.
        candidate: one of its candidates that ran.
        noise: by tensor, from `layer_noise`; what it lacks counts as exact.
    """
    facts = candidate.model or report.model
    return Baseline(
        Path(facts.path).name, facts.sha256, candidate.version, inputs_of(report),
        report.samples, _figures(candidate.outputs, noise), _figures(candidate.tensors, noise))


def by_name(candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    """Candidates under names that are the same on every machine: targets, and files without their folders."""
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        plain = re.split(r"[\\/]", candidate.target)[-1]
        alike = sum(name == plain or name.startswith(f"{plain} (") for name in found)
        found[f"{plain} ({alike + 1})" if alike else plain] = candidate
    return found


def inputs_of(report: Report) -> tuple[str, ...]:
    """What a run was fed, as far as figures depend on it."""
    return tuple(f"{i.name} {i.dtype} {'x'.join(map(str, i.shape)) or 'scalar'}"
                 + (f" seed {report.seed}" if i.source.startswith("seeded") else "") for i in report.inputs)


def figures_of(layer: Layer) -> tuple[float | None, float | None]:
    """A layer's error and what it adds by itself, as they are held against a baseline."""
    return None if layer.accumulated is None else _number(layer.accumulated.rel_l2), _optional(own_error(layer))


def load(path: Path) -> Baselines:
    """Read a file of baselines, by target; none where there is no file.

    Raises:
        UsageError: the file cannot be read, or is none of baselines.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {data['schema_version']!r}")  # noqa: TRY301 - told like any other damage
        return {target: _sensible(decode(entry, Baseline)) for target, entry in data["targets"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is no baseline that can be read ({type(error).__name__}: {error})",
                         "Restore it from version control.") from None


def _sensible(baseline: Baseline) -> Baseline:
    """The baseline as it was read.

    Raises:
        ValueError: a figure that no run has, under which anything would pass.
    """
    for name, figures in (*baseline.outputs.items(), *baseline.tensors.items()):
        wrong = [f"{value} as the {what}" for what, value in vars(figures).items()
                 if value is not None and not value >= 0]
        if wrong:
            raise ValueError(f"tensor {name} has {wrong[0]}")
    return baseline


def save(path: Path, baselines: Baselines) -> None:
    """Write a file of baselines, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    ensure_writable(path.parent)
    write_whole(path, "\n".join(_lines(baselines)) + "\n")


def _lines(baselines: Baselines) -> Iterator[str]:
    yield f'{{"schema_version": {SCHEMA_VERSION}, "targets": {{'
    for place, (target, baseline) in enumerate(sorted(baselines.items())):
        yield f"{_text(target)}: {{"
        yield from (f" {_text(name)}: {_text(getattr(baseline, name))}," for name in
                    ("model", "sha256", "version", "inputs", "samples"))
        for name, end in (("outputs", "},"), ("tensors", "}")):
            yield f' "{name}": {{'
            rows = [f"  {_text(tensor)}: {_text(row)}" for tensor, row in getattr(baseline, name).items()]
            yield ",\n".join(rows) + end
        yield "}" + ("," if place + 1 < len(baselines) else "")
    yield "}}"


def _text(value: object) -> str:
    return json.dumps(encode(value), ensure_ascii=False, allow_nan=False)


def _figures(layers: Sequence[Layer], noise: Mapping[str, float]) -> dict[str, Figures]:
    found = {}
    for layer in layers:
        error, own = figures_of(layer)
        found[layer.tensor] = Figures(_rounded(error), _rounded(own), _rounded(noise.get(layer.tensor, 0.0)) or 0.0)
    return found


def _rounded(value: float | None) -> float | None:
    """Up, so that the same run again is never beyond it."""
    return value if value is None or not isfinite(value) else float(_DIGITS.create_decimal(Decimal(value)))


def _number(value: float) -> float:
    """NaN as infinite: nothing is worse, and it compares."""
    return value if value == value else inf  # noqa: PLR0124 - only NaN is not itself


def _optional(value: float | None) -> float | None:
    return None if value is None else _number(value)
