"""Faults of known place: the tool must name that very place, whether the outputs show the fault or hide it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from parity.backends.base import RunOptions
from parity.backends.planted import Fault
from parity.compare import Options, compare
from parity.contenders import Contender
from parity.errors import ParityError
from parity.graph.feeds import Feed, load_feed
from parity.graph.model import Model
from parity.graph.survey import survey
from parity.report.record import Candidate
from parity.targets import Target
from tests.builders import CommandLine, chain, saved
from tests.faults import all_values, faults_of, movement
from tests.models import FIXTURE_FOLDERS, REAL_MODELS

# Faults that move their own node's output by less (relative L2) are not counted.
SMALLEST_MOVE = 1e-4
# Four that run in a few milliseconds, two of images and two of sound; `scripts/planted` takes them all.
QUICK = ("mnist_cntk", "cifar10_tinycnn", "dtln_stage1", "dtln_stage2")
QUICK_MODELS = [m.folder for m in REAL_MODELS if m.folder.name in QUICK]


@dataclass(frozen=True, eq=False)
class Ground:
    """A model to plant faults in."""

    model: Model
    flat: Model
    feed: Feed
    faults: Sequence[Fault]


@cache
def ground(folder: Path) -> Ground:
    """A model, its inputs, and faults that count, one of every kind."""
    model = Model.load(folder / "model.onnx")
    feed, _ = load_feed(model, [str(folder / "inputs.npz")])
    if "digits" in folder.name:  # a few rows show what hundreds would
        feed = {n: v[:4] for n, v in feed.items()}
    flat = survey(model, feed).flat
    values = all_values(flat, feed)
    return Ground(model, flat, feed, list(of_every_kind(flat, values)))


def of_every_kind(flat: Model, values: dict[str, np.ndarray]) -> Iterator[Fault]:
    """Of each kind of fault the middle one that moves its node and leaves a model."""
    kinds: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults_of(flat, values):
        kinds[fault.kind].append(fault)
    for group in kinds.values():
        for fault in group[len(group) // 2:] + group[:len(group) // 2]:
            try:
                if movement(flat, fault, values) >= SMALLEST_MOVE:
                    yield fault
                    break
            except ParityError:
                continue  # the change makes no model that runs


def planted(folder: Path, optimization: str = "all", words: str = "") -> list[Candidate]:
    """Plant every fault, or those whose kind holds `words`; each must be named at the faulty node's output.

    A fault that makes a model that no runtime runs is left out: nobody will deploy it.
    """
    place = ground(folder)
    faults = [f for f in place.faults if words in f.kind]
    twins = [Contender(Target("onnxruntime"), f.plant(place.flat)) for f in faults]
    options = Options(RunOptions(optimization, threads=1), explain=False)
    report = compare(place.model, twins, [place.feed], [], options=options)
    found, missed = [], []
    for fault, candidate in zip(faults, report.candidates, strict=True):
        first = candidate.first_bad
        if candidate.status == "ok":
            found.append(candidate)
            if first is None or first.tensor != fault.tensor or first.kind == "precision":
                missed.append(f"{fault.kind} at {fault.tensor}: {first and (first.tensor, first.kind)}")
    assert not missed
    return found


@pytest.mark.parametrize("folder", FIXTURE_FOLDERS, ids=lambda f: f.name)
def test_every_kind_of_fault_is_named_in_the_fixtures(folder: Path) -> None:
    """One fault of each kind that fits the model: named at the faulty node's output, every one."""
    assert len(planted(folder)) >= 8


def test_there_are_enough_faults_of_enough_kinds() -> None:
    """The fixtures together take about forty faults of at least twenty kinds, hidden and shown ones."""
    faults = [f for folder in FIXTURE_FOLDERS for f in ground(folder).faults]
    assert len(faults) >= 35
    assert len({f.kind for f in faults}) >= 20
    words = ("scaled", "zeroed", "bias", "epsilon", "axis", "perm", "swapped", "FP16")
    assert [w for w in words if not any(w in f.kind for f in faults)] == []


@pytest.mark.parametrize("optimization", ["off", "all"])
def test_a_fault_that_the_outputs_hide_is_named(optimization: str) -> None:
    """Verdict parity, and the fault named all the same: the transformer hides what is lost in one FP16 tensor."""
    candidates = planted(FIXTURE_FOLDERS[1], optimization, "FP16")
    assert sum(c.verdict == "parity" for c in candidates) >= 3


def test_hidden_faults_fail_only_when_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line a hidden fault is status 0, and 1 with --strict; it is named either way."""
    command = CommandLine(tmp_path / "r", monkeypatch, capsys)
    files = [saved(tmp_path / "good.onnx", chain()), saved(tmp_path / "bad.onnx", chain("w0"))]
    for arguments, status in (([], 0), (["--strict"], 1)):
        outcome = command.compare(*files, *arguments)
        assert (outcome.status, outcome.report.verdict) == (status, "parity")
        assert outcome.candidate.first_bad is not None
        assert outcome.candidate.first_bad.tensor == "a"


@pytest.mark.parametrize("share", [1e-5, -1e-5, 1e-3])
def test_the_weakest_fault_of_a_weight(share: float) -> None:
    """A weight off by a hundred-thousandth is found in every layer of the chain, and where nothing is off none is."""
    from onnx import numpy_helper

    from parity.graph.feeds import seeded_feed

    good = Model.from_proto(chain())
    feed, _ = seeded_feed(good, 0)
    for weight, tensor in (("w0", "a"), ("w1", "c"), ("w2", "e"), ("w3", "f")):
        proto = chain()
        stored = next(t for t in proto.graph.initializer if t.name == weight)
        stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored) * np.float32(1 + share), weight))
        candidate = compare(good, [Contender(Target("onnxruntime"), Model.from_proto(proto))], [feed], []).candidates[0]
        assert candidate.verdict == "parity"
        assert candidate.first_bad is not None
        assert candidate.first_bad.tensor == tensor


@pytest.mark.models
@pytest.mark.parametrize("folder", QUICK_MODELS, ids=lambda f: f.name)
def test_every_kind_of_fault_is_named_in_real_models(folder: Path) -> None:
    """The same on four real models."""
    assert len(planted(folder)) >= 5
