"""Divergences of known cause, planted in any model, and the evidence that a comparison gathers about each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from parity.analysis.diagnose import Diagnosis, Evidence, diagnose
from parity.analysis.localize import divergences, first_to_blame
from parity.analysis.match import comparable_tensors
from parity.analysis.noise import noise
from parity.analysis.outputs import judge_outputs
from parity.analysis.reads import without_unread
from parity.analysis.streams import Stream
from parity.analysis.tolerance import DEFAULTS
from parity.backends.base import RunOptions, Session, backend_of
from parity.backends.planted import Fault
from parity.contenders import Contender
from parity.graph.executor import Executor
from parity.graph.feeds import Feed, load_feed, seeded_feed
from parity.graph.graph import Node
from parity.graph.model import Model, shallow_copy
from parity.graph.ops.call import from_numpy, is_tensor, to_numpy
from parity.graph.survey import survey
from parity.preparation import make_ready
from parity.targets import Target
from tests.faults import all_values, faults_of, movement

ORT = Target("onnxruntime")


@dataclass(frozen=True, eq=False)
class Case:
    """A divergence whose cause is known.

    Attributes:
        kind: what was planted.
        causes: names under which a diagnosis is right.
        tensor: at which it is planted.
        model: the reference.
        contender: what is held against it.
        plain: what runs unwatched, where that is another model than the watched one.
        optimization: of the runtime.
    """

    kind: str
    causes: frozenset[str]
    tensor: str
    model: Model
    contender: Contender
    plain: Model | None = None
    optimization: str = "all"


@dataclass(frozen=True, eq=False)
class Ground:
    """A model to plant causes in."""

    model: Model
    feed: Feed

    @staticmethod
    def load(folder: Path, rows: int = 8) -> Ground:
        """A fixture or a real model with its inputs; of the fixtures' images the first few."""
        model = Model.load(folder / "model.onnx")
        feed, _ = load_feed(model, [str(folder / "inputs.npz")])
        return Ground(model, {n: v[:rows] for n, v in feed.items()} if "digits" in folder.name else feed)

    @cached_property
    def flat(self) -> Model:
        """The model with If and functions inlined."""
        return survey(self.model, self.feed).flat

    @cached_property
    def values(self) -> Mapping[str, np.ndarray]:
        """Every tensor of a clean FP32 run."""
        return all_values(self.flat, self.feed)


def gather(model: Model, contender: Contender, feed: Feed, optimization: str = "all",
           plain: Model | None = None) -> Evidence:
    """Compare as `parity compare` does, and keep what a diagnosis needs."""
    options = RunOptions(optimization, threads=1)
    surveyed = survey(model, feed)
    ready = make_ready(model, contender, surveyed, feed, None, options)
    unwatched: Session = ready.session if plain is None else backend_of(ORT).open(plain, plain, ORT, options)
    outputs = unwatched.run(feed).outputs
    tolerance = DEFAULTS[ready.precision]
    judged = judge_outputs(surveyed.outputs, outputs, noise(surveyed.flat, feed, surveyed.outputs), tolerance)
    wanted = comparable_tensors(surveyed.flat)
    reference = backend_of(Target("pytorch")).open(model, surveyed.flat, Target("pytorch"), options)
    expected = Stream(reference.watch(feed, wanted, surveyed.sizes), frozenset(wanted))
    kept: dict[str, np.ndarray] = {}
    shown = Stream(_keeping(ready.session.watch(feed, ready.shown, ready.sizes), kept), ready.shown)
    names = frozenset(comparable_tensors(ready.variant))
    found = without_unread(list(divergences(surveyed.flat, ready.variant, feed, expected, shown, names)),
                           ready.variant, feed)
    limit = max((o.limit for o in judged), default=tolerance.rel_l2(0.0))
    diverged = not all(o.passed for o in judged)
    moved = max((_apart(outputs[n], kept[n]) for n in outputs.keys() & kept.keys()), default=None)
    return Evidence(
        surveyed.flat, ready.variant, feed, found,
        first_to_blame(found, outputs_fail=diverged or not judged, limit=limit), kept, surveyed.outputs, outputs,
        limit, ready.precision, diverged, moved, None if contender.tensors else lambda: unwatched.run(feed).outputs,
        None if contender.tensors else partial(_unoptimised, model, contender, feed), own=ready.own)


def _unoptimised(model: Model, contender: Contender, feed: Feed) -> Feed:
    """A run with the optimisation off: of the watched model, where only optimisation makes it another one."""
    surveyed, options = survey(model, feed), RunOptions("off", threads=1)
    return make_ready(model, contender, surveyed, feed, None, options).session.run(feed).outputs


def _keeping(chunks: Iterator[Mapping[str, np.ndarray]], kept: dict[str, np.ndarray],
             ) -> Iterator[Mapping[str, np.ndarray]]:
    for chunk in chunks:
        kept.update(chunk)
        yield chunk


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    from parity.analysis.measure import measure

    return measure(one, other).rel_l2 if one.shape == other.shape else np.inf


# What a planted fault of the judging tests is called by the diagnosis.
_NAMES: Mapping[str, Sequence[str]] = {
    "weight scaled": ("weights-differ",), "a channel zeroed": ("weights-differ",), "transposed": ("weights-differ",),
    "bias shifted": ("weights-differ",), "epsilon": ("wrong-epsilon",), "alpha": ("wrong-attribute",),
    "axis changed": ("wrong-axis",), "pads moved": ("wrong-padding",), "perm changed": ("wrong-permutation",),
    "mode changed": ("wrong-resize-mode",), "swapped for": ("wrong-operator",), "rounded": ("reduced-precision",),
}


def meanings(ground: Ground) -> Iterator[Case]:
    """Of each kind of fault of an operator or a weight, the middle one that moves its node."""
    groups: dict[str, list[Case]] = {}
    for fault in faults_of(ground.flat, ground.values):
        causes = next((c for words, c in _NAMES.items() if words in fault.kind), None)
        if causes is not None:
            if fault.kind.startswith("Gemm: weight scaled"):  # which nobody can tell from another alpha
                causes = (*causes, "wrong-attribute")
            group = "rounded" if "rounded" in fault.kind else fault.kind
            groups.setdefault(group, []).append(Case(
                fault.kind, frozenset(causes), fault.tensor, ground.model, Contender(ORT, fault.plant(ground.flat))))
    by_tensor = {(f.kind, f.tensor): f for f in faults_of(ground.flat, ground.values)}
    for cases in groups.values():
        for case in cases[len(cases) // 2:] + cases[:len(cases) // 2]:
            if movement(ground.flat, by_tensor[case.kind, case.tensor], ground.values) >= 1e-4:
                yield case
                break


T = TypeVar("T")


def spread(items: Sequence[T], count: int) -> list[T]:
    """Some of many, evenly spread."""
    return [items[int((i + 0.5) * len(items) / count)] for i in range(min(count, len(items)))]


def float_places(ground: Ground) -> list[Node]:
    """Weighted nodes that make an FP32 tensor."""
    return [n for n in ground.flat.graph.nodes if n.op in ("Conv", "Gemm", "MatMul", "com.microsoft::FusedConv")
            and n.outputs[0] not in ground.flat.constants and n.outputs[0] in ground.values
            and ground.values[n.outputs[0]].dtype == np.float32]


def after(model: Model, tensor: str, steps: Sequence[tuple[str, str, float | np.ndarray]]) -> Model:
    """The model with binary operators put behind a tensor, which keeps its name.

    Args:
        model: any.
        tensor: of the main graph.
        steps: operator, name of its result (the last one is `tensor`), constant.
    """
    proto = shallow_copy(model.proto)
    node = next(n for n in proto.graph.node if tensor in n.output)
    raw = f"{tensor}/plain"
    node.output[list(node.output).index(tensor)] = raw
    place = list(proto.graph.node).index(node) + 1
    for i, (op, name, value) in enumerate(steps):
        constant = f"{tensor}/constant{i}"
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), constant))
        proto.graph.node.insert(place + i, helper.make_node(op, [raw, constant], [name]))
        raw = name
    return Model.from_proto(proto, model.folder)


def before(model: Model, name: str, nodes: Callable[[str, str], list[NodeProto]],
           weights: Mapping[str, np.ndarray]) -> Model:
    """The model with operators put behind one of its inputs."""
    proto = shallow_copy(model.proto)
    changed = f"{name}/changed"
    for node in proto.graph.node:
        node.input[:] = [changed if i == name else i for i in node.input]
    for i, node in enumerate(nodes(name, changed)):
        proto.graph.node.insert(i, node)
    proto.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in weights.items())
    return Model.from_proto(proto, model.folder)


def other_inputs(ground: Ground) -> Iterator[Case]:
    """Channels swapped, another layout, another normalisation."""
    for spec in ground.flat.graph.inputs:
        x = ground.feed[spec.name]
        if x.dtype != np.float32 or x.ndim < 3 or not x.any():
            continue
        readers = ground.flat.graph.readers.get(spec.name, ())
        tensor = readers[0].outputs[0] if readers else ""
        if x.ndim == 4 and x.shape[1] == 3:
            order = np.array([2, 1, 0])
            yield Case("channels swapped", frozenset({"input-channels"}), tensor, ground.model, Contender(ORT, before(
                ground.flat, spec.name, lambda a, b: [helper.make_node("Gather", [a, "order"], [b], axis=1)],
                {"order": order})))
            n, c, h, w = x.shape
            yield Case("NHWC for NCHW", frozenset({"input-layout"}), tensor, ground.model, Contender(ORT, before(
                ground.flat, spec.name, lambda a, b: [
                    helper.make_node("Reshape", [a, "nhwc"], [f"{b}/1"]),
                    helper.make_node("Transpose", [f"{b}/1"], [b], perm=[0, 3, 1, 2])],
                {"nhwc": np.array([n, h, w, c])})))
            mean = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1)
            yield Case("another mean", frozenset({"input-normalisation"}), tensor, ground.model, Contender(ORT, before(
                ground.flat, spec.name, lambda a, b: [helper.make_node("Sub", [a, "mean"], [b])], {"mean": mean})))
        elif x.shape[-1] == x.shape[-2] > 1:
            perm = [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2]
            yield Case("axes swapped", frozenset({"input-layout"}), tensor, ground.model, Contender(ORT, before(
                ground.flat, spec.name, partial(_transposed, perm), {})))
        yield Case("times 255", frozenset({"input-normalisation"}), tensor, ground.model, Contender(ORT, before(
            ground.flat, spec.name, lambda a, b: [helper.make_node("Mul", [a, "factor"], [b])],
            {"factor": np.array(255, np.float32)})))


def _transposed(perm: Sequence[int], a: str, b: str) -> list[NodeProto]:
    return [helper.make_node("Transpose", [a], [b], perm=perm)]


def random_ops(ground: Ground) -> Iterator[Case]:
    """Noise added to a tensor, drawn anew in each run: by the candidate alone, then, much of it, on both sides."""
    for node in spread(float_places(ground), 1):
        name = node.outputs[0]
        noisy, drowned = (with_noise(ground, name, share) for share in (0.1, 10.0))
        yield Case("non-repeatable operator", frozenset({"nondeterminism"}), name, ground.model, Contender(ORT, noisy))
        yield Case("a model that draws numbers", frozenset({"nondeterminism"}), name, drowned, Contender(ORT))


def with_noise(ground: Ground, name: str, share: float) -> Model:
    """The model with noise added to one tensor, of so many times its size."""
    size = float(np.sqrt(np.mean(ground.values[name].astype(np.float64)**2)))
    proto = shallow_copy(ground.flat.proto)
    maker = next(n for n in proto.graph.node if name in n.output)
    maker.output[list(maker.output).index(name)] = f"{name}/plain"
    place = list(proto.graph.node).index(maker) + 1
    proto.graph.node.insert(place, helper.make_node(
        "RandomNormalLike", [f"{name}/plain"], [f"{name}/noise"], scale=share * size))
    proto.graph.node.insert(place + 1, helper.make_node("Add", [f"{name}/plain", f"{name}/noise"], [name]))
    return Model.from_proto(proto, ground.flat.folder)


def fusions(ground: Ground) -> Iterator[Case]:
    """A runtime whose optimisation gets a node wrong, and which does it right when it is watched."""
    faults = [f for f in faults_of(ground.flat, ground.values) if "weight scaled" in f.kind or "bias" in f.kind]
    for fault in spread(faults, 1):
        wrong = fault.plant(ground.flat)
        scaled = _scaled_weight(wrong, f"{fault.tensor}/planted", 3.0)
        yield Case("wrong fusion", frozenset({"optimisation"}), fault.tensor, ground.model, Contender(ORT), scaled)


def _scaled_weight(model: Model, name: str, factor: float) -> Model:
    proto = shallow_copy(model.proto)
    weight = next(t for t in proto.graph.initializer if t.name == name)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), name))
    return Model.from_proto(proto, model.folder)


PLANTERS: tuple[Callable[[Ground], Iterator[Case]], ...] = (
    meanings, other_inputs, random_ops, fusions)



def taken_elsewhere(model: Model, feed: Feed, tensor: str, change: Callable[[np.ndarray], np.ndarray],
                    ) -> dict[str, np.ndarray]:
    """Every tensor of a run in which one was computed otherwise, as a file of them would hold it.

    Args:
        model: flat.
        feed: its inputs.
        tensor: that a runtime gets wrong.
        change: what it makes of the right value.
    """
    executor = Executor(model)
    scope = executor.scope(feed)
    for node in model.graph.nodes:
        made = executor.evaluate(node, [scope[n] if n else None for n in node.inputs], scope)
        scope.update({n: v for n, v in zip(node.proto.output, made, strict=False) if n})
        if tensor in node.outputs:
            scope[tensor] = from_numpy(change(to_numpy(scope[tensor])))
    return {n: to_numpy(v) for n, v in scope.items() if is_tensor(v) and n not in feed and n not in model.constants}


def saved_tensors(folder: Path, tensors: Mapping[str, np.ndarray]) -> Contender:
    """A contender of tensors taken elsewhere."""
    path = folder / "tensors.npz"
    np.savez(path, **tensors)  # type: ignore[arg-type]
    return Contender(None, tensors=path)


def as_if(wrong: ModelProto) -> Contender:
    """A runtime that computes another model than the one that it is given, which nobody has a file of."""
    return Contender(ORT, fault=Fault("another model", "", lambda proto: proto.CopyFrom(wrong)))


def diagnosed(model: Model, contender: Contender | ModelProto, feed: Feed | None = None, optimization: str = "all",
              ) -> tuple[Diagnosis, ...]:
    """What is said of a contender, or of another model run by ONNX Runtime; on seeded inputs where none are given."""
    given = seeded_feed(model, 0)[0] if feed is None else feed
    other = contender if isinstance(contender, Contender) else Contender(ORT, Model.from_proto(contender))
    return diagnose(gather(model, other, given, optimization))
