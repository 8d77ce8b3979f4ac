"""What TensorRT made of the model: which nodes it computes as one, what that hides, and in which precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parity.backends.trt.layers import WIDTHS, EngineTensor, Layer
from parity.graph.model import Model
from parity.precision.plan import read_plan
from parity.precision.quantize import WEIGHTED


@dataclass(frozen=True)
class Region:
    """ONNX nodes that one layer of the engine computes together.

    Attributes:
        layer: of the engine.
        nodes: first outputs of the nodes, in the graph's order.
        hidden: tensors that are made and read inside only, so that no run of this engine shows them.
    """

    layer: str
    nodes: tuple[str, ...]
    hidden: tuple[str, ...]


@dataclass(frozen=True)
class Granted:
    """A node that runs in a wider precision than the model asks for.

    Attributes:
        node: its first output.
        asked: what the model says.
        granted: what the engine's layer computes on.
        layer: of the engine.
    """

    node: str
    asked: str
    granted: str
    layer: str


def regions(layers: Sequence[Layer], model: Model) -> tuple[Region, ...]:
    """Where the engine computes several nodes as one.

    Only nodes that one layer computes alone are counted: of those that several layers share, none says which tensors
    pass between.

    Args:
        layers: of the engine.
        model: what it was built from, flat.
    """
    graph = model.graph
    shown = {t.name for layer in layers for t in layer.outputs} | {o.name for o in graph.outputs} | model.constants
    times = Counter(name for layer in layers for name in layer.covers)
    found = []
    for layer in layers:
        nodes = sorted((graph.producer[n] for n in layer.covers if n in graph.producer and times[n] == 1),
                       key=lambda n: n.index)
        inside = {n.index for n in nodes}
        hidden = [o for n in nodes for o in n.outputs
                  if o not in shown and graph.readers.get(o) and all(r.index in inside for r in graph.readers[o])]
        if hidden:
            found.append(Region(layer.name, tuple(n.outputs[0] for n in nodes), tuple(hidden)))
    return tuple(found)


def surfacing(layers: Sequence[Layer], model: Model) -> Mapping[str, EngineTensor]:
    """Which of the engine's tensors is which of the model's: ONNX name → what the engine calls it.

    The output of a layer is a tensor of the model where only one comes into question: made by a node that the layer
    covers and no later one does (the first may leave out the bias), and read outside, or a result.

    Args:
        layers: of the engine, in its order.
        model: what it was built from, flat.
    """
    graph = model.graph
    results = {o.name for o in graph.outputs}
    last = {name: index for index, layer in enumerate(layers) for name in layer.covers}
    found: dict[str, EngineTensor] = {}
    for index, layer in enumerate(layers):
        nodes = [graph.producer[n] for n in layer.covers if n in graph.producer and last[n] == index]
        inside = {n.index for n in nodes}
        leaving = [o for n in nodes for o in n.outputs
                   if o in results or any(r.index not in inside for r in graph.readers.get(o, ()))]
        if len(leaving) == 1 and len(layer.outputs) == 1:
            found[leaving[0]] = layer.outputs[0]
    return found


def wider_than_asked(layers: Sequence[Layer], model: Model) -> tuple[Granted, ...]:
    """Nodes that the engine computes in a wider type than the model asks for, in the graph's order.

    Said only where every layer that covers a node leaves no doubt. INT8 is asked of the operators with weights, the
    others compute on what was dequantised, and it is given where INT8 is read. FP16 and BF16 are given where they are
    read or written, for a Cast may be fused with what reads it.

    Args:
        layers: of the engine.
        model: what it was built from, flat.
    """
    asked = read_plan(model)
    covering: dict[str, list[Layer]] = {}
    for layer in layers:
        for name in layer.covers:
            covering.setdefault(name, []).append(layer)
    found = []
    for node in model.graph.nodes:
        want = asked.of(node)
        name = node.outputs[0] if node.outputs else ""
        if want == "fp32" or name not in covering or (want == "int8" and node.op not in WEIGHTED):
            continue
        kinds = {k for layer in covering[name] for k in (*layer.reads, *(layer.writes if want != "int8" else ()))}
        best = min(kinds, key=WIDTHS.index, default=want)
        if WIDTHS.index(best) > WIDTHS.index(want) and {best, want} != {"fp16", "bf16"}:
            found.append(Granted(name, want, best, covering[name][0].name))
    return tuple(found)


_SHOWN = 3  # as many examples as fit a sentence


def notes_on(layers: Sequence[Layer], model: Model) -> tuple[str, ...]:
    """What a reader should know of an engine, in plain sentences.

    Args:
        layers: of the engine.
        model: what it was built from.
    """
    notes = []
    fused = regions(layers, model)
    if fused:
        hidden = len({name for region in fused for name in region.hidden})
        largest = max(fused, key=lambda r: len(r.hidden))
        notes.append(f"The deployed engine hides {hidden} tensors inside {len(fused)} fused layers; the largest runs "
                     f"from {largest.nodes[0]!r} to {largest.nodes[-1]!r}.")
    wider = wider_than_asked(layers, model)
    if wider:
        examples = ", ".join(f"{g.node!r} asks for {g.asked} and runs in {g.granted}" for g in wider[:_SHOWN])
        more = f", and {len(wider) - _SHOWN} more" if len(wider) > _SHOWN else ""
        notes.append(f"The engine computes {len(wider)} nodes in a wider type than the model asks for: "
                     f"{examples}{more}.")
    return tuple(notes)
