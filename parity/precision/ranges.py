"""Which range each tensor covers on the calibration samples, as ONNX Runtime's calibrators see it.

Two passes at most, each over a few samples or tensors at a time: least and greatest value; then, where the method wants
them, histograms between these. Starting the histograms at the known range keeps them at a fixed number of bins, and
makes them independent of the order of the samples (left alone, ONNX Runtime adds bins as larger values come).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from onnx import helper

from parity.errors import BackendFailed, BackendUnavailable, OutputError, ParityError
from parity.graph.executor import Executor
from parity.graph.feeds import Feed
from parity.graph.model import Model, shallow_copy
from parity.graph.ops.call import is_tensor, to_numpy
from parity.graph.scratch import temporary_folder
from parity.precision.calibration import Calibration
from parity.precision.calibration import TensorRange as TensorRange  # noqa: PLC0414 - it is made here
from parity.precision.lethal import refuse_traps

Method: TypeAlias = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class RangeSettings:
    """How ranges are found.

    Attributes:
        method: "minmax"; "entropy" (least Kullback-Leibler divergence between the values and their quantised form);
            "percentile".
        percentile: share of the magnitudes that are kept, in percent; ONNX Runtime's default.
        entropy_bins: of the histogram. With ONNX Runtime's default of 128 there is a single threshold to choose from
            and "entropy" is "minmax"; 512 let it go down to a quarter of the range.
        percentile_bins: of the histogram; ONNX Runtime's default.
        memory: bytes of tensors to hold at a time.
    """

    method: Method = "minmax"
    percentile: float = 99.999
    entropy_bins: int = 512
    percentile_bins: int = 2048
    memory: int = 512 * 2**20


@dataclass(frozen=True)
class TensorFacts:
    """What one run shows of a tensor."""

    dtype: np.dtype
    nbytes: int


@dataclass(frozen=True)
class FirstRun:
    """What a run on the first sample shows.

    Attributes:
        facts: of the tensors that were asked for.
        outputs: the graph outputs that are tensors.
    """

    facts: Mapping[str, TensorFacts]
    outputs: Mapping[str, np.ndarray]


def first_run(model: Model, feed: Feed, names: Collection[str]) -> FirstRun:
    """Run a model once on the executor, looking at some tensors of the main graph.

    Raises:
        ModelError: the model does not run on this feed.
    """
    results = {o.name for o in model.graph.outputs}
    facts = {n: TensorFacts(v.dtype, v.nbytes) for n, v in feed.items() if n in names}
    outputs: dict[str, np.ndarray] = {}
    for step in Executor(model).steps(feed):
        arrays = {n: to_numpy(v) for n, v in step.values.items() if is_tensor(v)}
        facts.update((n, TensorFacts(v.dtype, v.nbytes)) for n, v in arrays.items() if n in names)
        outputs.update((n, v) for n, v in arrays.items() if n in results)
    return FirstRun(facts, outputs)


def observe(model: Model, calibration: Calibration, facts: Mapping[str, TensorFacts],
            settings: RangeSettings) -> dict[str, TensorRange]:
    """The range of each tensor over all samples; what was observed of the same model before is not run again.

    Args:
        model: flat, as it is to be quantised.
        calibration: the samples.
        facts: the tensors wanted, each float32 or float16 and not empty.
        settings: which method.

    Raises:
        BackendUnavailable: there is no ONNX Runtime.
        BackendFailed: it cannot run the model.
        FeedError: a sample does not fit the model.
        OutputError: the folder of temporary files is full, or cannot be written.
    """
    seen = calibration.seen.setdefault(f"{_digest(model)} {settings}", {})
    missing = {n: f for n, f in facts.items() if n not in seen}
    if missing:
        seen.update(_observed(model, calibration, missing, settings))
    return {n: seen[n] for n in facts}


def _digest(model: Model) -> str:
    """A hash of what decides a model's values: nodes, weights, and where those lie that are in other files."""
    state = hashlib.blake2b()
    graph = model.proto.graph
    for part in (*graph.node, *(t for t in graph.initializer if not t.raw_data), *graph.sparse_initializer):
        state.update(part.SerializeToString(deterministic=True))
    for tensor in graph.initializer:
        state.update(f"{tensor.name} {tensor.dims}".encode())
        state.update(tensor.raw_data)
    return f"{state.hexdigest()} {model.folder}"


def _observed(model: Model, calibration: Calibration, facts: Mapping[str, TensorFacts],
              settings: RangeSettings) -> dict[str, TensorRange]:
    with _reported(), temporary_folder() as folder:
        refuse_traps(model, calibration)
        path = Path(folder) / "model.onnx"
        _declared(model, facts).externalised(Path(folder)).save(path)
        ranges = _extremes(path, calibration, facts)
        if settings.method == "minmax":
            return ranges
        # A range of nothing or of infinity has no histogram.
        spread = {n: r for n, r in ranges.items() if r.usable and max(-r.lowest, r.highest) > 0}
        for group in _groups({n: facts[n] for n in spread}, settings.memory):
            found = _thresholds(path, calibration, {n: spread[n] for n in group}, settings)
            # A percentile of a tensor that is almost everywhere 0 may be 0, which no scale stands for.
            ranges.update({n: r for n, r in found.items() if max(-r.lowest, r.highest) > 0})
    return ranges


def _declared(model: Model, facts: Mapping[str, TensorFacts]) -> Model:
    """The model with the types of these tensors declared, for the calibrators take no tensor without one."""
    proto = shallow_copy(model.proto)
    known = {v.name for v in (*proto.graph.input, *proto.graph.output)}
    kept = [v for v in proto.graph.value_info if v.name not in facts]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    proto.graph.value_info.extend(
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(f.dtype), None)
        for n, f in facts.items() if n not in known)
    return Model(proto, model.folder)


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Keep the calibrators from printing, and say in parity's words what goes wrong in them."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of NaN, which the caller reports by name
            yield
    except ImportError as error:
        raise BackendUnavailable(f"INT8 needs ONNX Runtime's quantiser, which cannot be imported ({error})",
                                 "pip install 'parity[cpu]'") from error
    except ParityError:
        raise
    except OSError as error:
        raise OutputError(f"the model cannot be put into {gettempdir()} for calibration ({error.strerror or error})",
                          "Free space there, or set TMPDIR to another folder.") from error
    except Exception as error:  # ONNX Runtime's own have no common base
        raise BackendFailed(f"ONNX Runtime cannot run the model for calibration: {str(error).splitlines()[0]}",
                            "Check that the model runs: parity compare MODEL -c onnxruntime.") from error


class _OneSample:
    """ONNX Runtime's CalibrationDataReader with a single sample, so that no more than that is ever held."""

    def __init__(self, feed: Feed) -> None:
        self._feed: dict[str, np.ndarray] | None = dict(feed)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The sample, then None."""
        feed, self._feed = self._feed, None
        return feed


def _extremes(path: Path, calibration: Calibration, facts: Mapping[str, TensorFacts]) -> dict[str, TensorRange]:
    from onnxruntime.quantization.calibrate import MinMaxCalibrater

    calibrator = _prepared(MinMaxCalibrater(path, augmented_model_path=_augmented(path)), facts)
    for feed in calibration:
        calibrator.collect_data(_OneSample(feed))
    return _ranges(calibrator.compute_data(), facts)


def _thresholds(path: Path, calibration: Calibration, extremes: Mapping[str, TensorRange],
                settings: RangeSettings) -> dict[str, TensorRange]:
    from onnxruntime.quantization.calibrate import EntropyCalibrater, HistogramCollector, PercentileCalibrater

    if settings.method == "entropy":
        calibrator = EntropyCalibrater(path, augmented_model_path=_augmented(path), num_bins=settings.entropy_bins)
    else:
        calibrator = PercentileCalibrater(path, augmented_model_path=_augmented(path), symmetric=True,
                                          num_bins=settings.percentile_bins, percentile=settings.percentile)
    calibrator.collector = HistogramCollector(
        method=calibrator.method, symmetric=calibrator.symmetric, num_bins=calibrator.num_bins,
        num_quantized_bins=calibrator.num_quantized_bins, percentile=calibrator.percentile, scenario="same")
    calibrator.collector.histogram_dict = {n: _empty_histogram(r, settings) for n, r in extremes.items()}
    _prepared(calibrator, extremes)
    for feed in calibration:
        calibrator.collect_data(_OneSample(feed))
    return _ranges(calibrator.compute_data(), extremes)


def _empty_histogram(extremes: TensorRange, settings: RangeSettings) -> tuple[Any, ...]:
    """A histogram over the whole range in the form in which ONNX Runtime goes on with one."""
    lowest, highest = extremes.dtype.type(extremes.lowest), extremes.dtype.type(extremes.highest)
    largest = max(abs(lowest), abs(highest))
    if settings.method == "entropy":
        bins = settings.entropy_bins
        edges = np.linspace(-largest, largest, bins + 1).astype(extremes.dtype)
        return np.zeros(bins, np.int64), edges, lowest, highest, largest
    bins = settings.percentile_bins
    edges = np.linspace(0, largest, bins + 1).astype(extremes.dtype)
    return np.zeros(bins, np.int64), edges, lowest, highest


def _prepared(calibrator: Any, names: Collection[str]) -> Any:
    """A calibrator that looks at these tensors only; by itself it takes all of some operators."""
    declared = {v.name: v for v in (*calibrator.model.graph.value_info, *calibrator.model.graph.output,
                                    *calibrator.model.graph.input)}
    calibrator.select_tensors_to_calibrate = lambda model: (sorted(names), declared)
    calibrator.use_external_data_format = True  # the weights are in a file already, and may be large
    calibrator.augment_graph()
    calibrator.infer_session = _session(calibrator.augmented_model_path)
    return calibrator


def _session(path: str) -> Any:
    """What the calibrators make themselves, but silent: what matters arrives as an exception."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _augmented(path: Path) -> str:
    return str(path.with_name("augmented.onnx"))


def _ranges(data: Any, wanted: Mapping[str, TensorFacts] | Mapping[str, TensorRange]) -> dict[str, TensorRange]:
    limits = {n: [float(np.asarray(v).reshape(())) for v in data[n].range_value] for n in wanted}
    return {n: TensorRange(lowest, highest, wanted[n].dtype) for n, (lowest, highest) in limits.items()}


def _groups(facts: Mapping[str, TensorFacts], memory: int) -> Iterator[Sequence[str]]:
    """Tensors in groups that fit the memory together, each at least one."""
    group: list[str] = []
    held = 0
    for name, fact in facts.items():
        # The calibrator holds the value, a flattened copy, and its magnitudes.
        if group and held + 3 * fact.nbytes > memory:
            yield group
            group, held = [], 0
        group.append(name)
        held += 3 * fact.nbytes
    if group:
        yield group
