"""Engines of the fixtures and the real models in every precision: which are built, and why the others are not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from parity.analysis.match import comparable_tensors
from parity.backends.base import Feed, RunOptions
from parity.backends.trt.build import built, recipe_for
from parity.backends.trt.inspect import regions, wider_than_asked
from parity.backends.trt.layers import layers_said
from parity.backends.trt.library import Library
from parity.backends.trt.network import parsed, written
from parity.backends.trt.run import dtype_of
from parity.backends.trt.session import mark_debug, mark_outputs
from parity.errors import BackendFailed
from parity.graph.model import Model
from parity.graph.survey import survey
from parity.precision.calibration import Calibration
from parity.precision.plan import Precision
from parity.precision.prepare import unfused
from parity.precision.variant import make_variant
from tests.backends.trt.standin import DEVICE

Way = Literal["", "outputs", "debug", "unfused"]
WAYS: tuple[Way, ...] = get_args(Way)
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
_ASYMMETRIC = "Non-zero zero point is not supported"
_COMPILER = "MyelinCheckException: bb.cpp:43"
# Model → precisions that TensorRT-RTX 1.7.1 does not build, and its words: a model quantised by someone else, with zero
# points; and a failure inside TensorRT's compiler, which is gone once tensors are marked as outputs.
EXPECTED = {("ultraface_qdq_int8", p): _ASYMMETRIC for p in PRECISIONS} | {
    ("dtln_stage1", p): _COMPILER for p in PRECISIONS}


@dataclass(frozen=True)
class Attempt:
    """What came of building an engine.

    Attributes:
        reason: why there is none; empty where there is.
        seconds: of parsing and building.
        bytes: of the engine.
        tensors: that both the model and its variant have.
        visible: how many of them can be marked.
        layers: of the engine.
        regions: layers that hide a tensor.
        hidden: tensors that they hide.
        wider: nodes that run in a wider type than was asked.
    """

    reason: str = ""
    seconds: float = 0.0
    bytes: int = 0
    tensors: int = 0
    visible: int = 0
    layers: int = 0
    regions: int = 0
    hidden: int = 0
    wider: int = 0


def subject(folder: Path, precision: Precision, workplace: Path) -> tuple[Model, Feed]:
    """A model in a precision, calibrated on its own inputs, and these."""
    model = Model.load(folder / "model.onnx")
    arrays = dict(np.load(folder / "inputs.npz"))
    feed = {spec.name: arrays[spec.name] for spec in model.graph.inputs}
    if precision == "fp32":
        return model, feed
    flat = survey(model, feed).flat
    return make_variant(flat, precision, Calibration.of_feeds(flat, [feed], indicative=True),
                        folder=workplace).model, feed


def attempt(library: Library, model: Model, feed: Feed, workplace: Path, way: Way = "") -> Attempt:
    """Build an engine for a GPU that need not be there, every comparable tensor made visible in the given way."""
    start = time.perf_counter()
    wanted = comparable_tensors(model)
    try:
        network = parsed(library, written(unfused(model), workplace, f"network{way}"), unfused=way == "unfused")
        tensors = network.tensors()
        visible = [n for n in wanted if n in tensors and dtype_of(tensors[n]) is not None]
        if way in ("outputs", "debug"):
            (mark_outputs if way == "outputs" else mark_debug)(network, visible)
        plan = built(library, network, recipe_for(library, network, DEVICE, feed, RunOptions()))
    except BackendFailed as error:
        return Attempt(error.message, time.perf_counter() - start, tensors=len(wanted))
    seconds = time.perf_counter() - start
    layers = layers_said(next(text for _, text in library.said if text.startswith("Layers:")))
    fused = regions(layers, network.source.model)
    return Attempt("", seconds, len(plan), len(wanted), len(visible), len(layers), len(fused),
                   len({name for region in fused for name in region.hidden}),
                   len(wider_than_asked(layers, network.source.model)))
