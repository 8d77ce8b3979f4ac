"""A precision decision in other tools' words: which nodes of a model stay in higher precision than the rest.

Nothing here runs these tools. What they do with names was read from their sources: ONNX Runtime 1.31,
onnxconverter-common 1.16, Model Optimizer 0.23 to 0.46, trtexec and Polygraphy of TensorRT 10.16.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from onnx import TensorProto

from parity.fixes.preparing import (
    freed,
    listed,
    named,
    outputs_apart,
    own_weights,
    patterns,
    quoted,
    raised,
    real_tensors,
    typed,
    widening,
)
from parity.graph.flatten import inline_functions
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.precision.elements import read_types
from parity.precision.plan import Precision, all_nodes
from parity.precision.prepare import FUSED_CONV, HALF_OPSET, PER_CHANNEL_OPSET, QDQ_OPSET
from parity.precision.quantize import QuantizeSettings

_TRT_TYPES: Mapping[Precision, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}
# trtexec splits its list at commas, takes single quotes away, and reads a star as a wildcard.
_UNSPEAKABLE = frozenset(",'*")
_CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})


def words(model: Model, kept: Mapping[str, Precision], low: Precision,
          settings: QuantizeSettings = QuantizeSettings(),  # noqa: B008 - it is frozen
          path: str = "model.onnx") -> dict[str, str]:
    """The decision "these nodes stay in higher precision, all else is FP16, BF16 or INT8", by tool.

    Args:
        model: what the other tool is to be given, with its names.
        kept: first outputs of the nodes that stay → what they stay in. What computes constants need not be named:
            every tool folds it, and it is left out.
        low: of all other nodes.
        settings: for INT8, how the rest is quantised.
        path: of the model's file, as it is to stand in the texts.

    Returns:
        Python (starting with its imports) or shell, comments included, ready to be pasted. Where nothing is kept, only
        for tools that are told how the rest is quantised; none where that is as by default.
    """
    decision = _Decision(model, {n: p for n, p in kept.items() if n not in model.constants}, low, settings, path)
    if low == "fp32" or (not decision.kept and settings == QuantizeSettings()):
        return {}
    return {tool: say(decision) for tool, (for_low, say) in _TOOLS.items()
            if low in for_low and (decision.kept or say is _onnxruntime)}


@dataclass(frozen=True, eq=False)
class _Decision:
    """What is to be said, as the arguments of `words`."""

    model: Model
    kept: Mapping[str, Precision]
    low: Precision
    settings: QuantizeSettings
    path: str

    @cached_property
    def nodes(self) -> list[Node]:
        """The kept nodes that the model has, those of sub-graphs included."""
        return [n for n in all_nodes(self.model.graph) if n.outputs and n.outputs[0] in self.kept]

    @cached_property
    def main(self) -> list[Node]:
        """Those of the main graph."""
        return [n for n in self.nodes if self.model.graph.producer.get(n.outputs[0]) is n]

    @cached_property
    def names(self) -> Counter[str]:
        """How often each name occurs, "" for none."""
        return Counter(n.proto.name for n in all_nodes(self.model.graph))

    @cached_property
    def renames(self) -> bool:
        """Whether nodes must be named first, as these tools know nodes by name alone."""
        names = [n.proto.name for n in self.model.graph.nodes]
        return "" in names or any(self.names[name] > 1 for name in names)

    @cached_property
    def real(self) -> set[str]:
        """Tensors in floating point, those of sub-graphs included."""
        return real_tensors(read_types(inline_functions(self.model)))

    def beside(self, ending: str) -> str:
        """A file beside the model's, with another ending."""
        return str(PurePath(self.path).with_suffix(f".{ending}"))

    def labels(self, nodes: Iterable[Node]) -> list[str]:
        """The names of nodes, after the renaming where there is one."""
        return [n.outputs[0] if self.renames else n.proto.name for n in nodes]

    def precisions(self) -> str:
        """What nodes stay in, for people."""
        return " or ".join(sorted({p.upper() for p in self.kept.values()}))

    def unreached(self, reached: Collection[Node]) -> list[str]:
        """Comments on kept nodes that a tool cannot be told of."""
        known = {n.outputs[0] for n in self.nodes}
        said = [f"# {n.outputs[0]!r} lies inside a sub-graph, which this tool does not look into."
                for n in self.nodes if n not in reached]
        return said + [f"# {n!r} is not in this file: it comes from a function that was inlined."
                       for n in self.kept if n not in known]


def _prepared(decision: _Decision, before: Sequence[str] = (), after: Sequence[str] = ()) -> tuple[list[str], str]:
    """Lines that bring the model into the form that a tool takes, and the file that it then reads.

    Args:
        decision: what is to be said.
        before: what must be done before nodes are named by their outputs.
        after: what must be done then.
    """
    lines = [*before, *(named() if decision.renames else []), *after]
    if not lines:
        return [], decision.path
    source = decision.beside("named.onnx" if decision.renames else "prepared.onnx")
    return [f"model = onnx.load({quoted(decision.path)})", *lines, f"onnx.save(model, {quoted(source)})", ""], source


def _onnxruntime(decision: _Decision) -> str:
    settings = decision.settings
    ops = list(settings.ops)
    half = any(t.data_type == TensorProto.FLOAT16 for t in decision.model.graph.initializers.values())
    steps = raised(decision.model, HALF_OPSET, "Scales in FP16 need") if half else (
        raised(decision.model, PER_CHANNEL_OPSET, "Scales by channel need") if settings.per_channel else
        raised(decision.model, QDQ_OPSET, "Q/DQ needs"))
    prepared, source = _prepared(decision, [*(freed(decision.model) if steps else []), *steps])
    method, ranges = _calibrated(settings)
    imported = ", ".join([*(["CalibrationMethod"] if method else []), "QuantFormat", "QuantType", "quantize_static"])
    outputs = [] if settings.outputs else [f'        "OpTypesToExcludeOutputQuantization": {json.dumps(ops)},']
    return "\n".join([
        *(["import onnx", "import onnx.version_converter"] if prepared else []),
        f"from onnxruntime.quantization import {imported}", "", *prepared,
        *decision.unreached(decision.main), *_elsewhere(decision, ops), "quantize_static(",
        f"    {quoted(source)},", f"    {quoted(decision.beside('int8.onnx'))},",
        "    calibration_data_reader,  # yours: a CalibrationDataReader", "    quant_format=QuantFormat.QDQ,", *method,
        f"    op_types_to_quantize={json.dumps(ops)},",
        f"    nodes_to_exclude={listed(decision.labels(decision.main))},",
        f"    per_channel={settings.per_channel},", f"    reduce_range={settings.reduce_range},",
        "    activation_type=QuantType.QInt8,", "    weight_type=QuantType.QInt8,", "    extra_options={",
        '        "ActivationSymmetric": True,', '        "WeightSymmetric": True,', '        "QuantizeBias": False,',
        '        "QDQDisableWeightAdjustForInt32Bias": True,', *ranges, *outputs, "    },", ")"])


def _calibrated(settings: QuantizeSettings) -> tuple[list[str], list[str]]:
    """How ranges are found, as an argument of quantize_static and as extra options; its default is minmax."""
    ranges = settings.ranges
    if ranges.method == "percentile":
        return (["    calibrate_method=CalibrationMethod.Percentile,"],
                ['        "CalibTensorRangeSymmetric": True,', f'        "CalibPercentile": {ranges.percentile:g},'])
    if ranges.method == "entropy":
        return ([f"    # Of its 128 bins none can be left out, so this is minmax; here it had {ranges.entropy_bins}.",
                 "    calibrate_method=CalibrationMethod.Entropy,"], [])
    return [], []


def _elsewhere(decision: _Decision, ops: Collection[str]) -> list[str]:
    """Comments on what ONNX Runtime does otherwise than the variant that was tried."""
    nodes = decision.model.graph.nodes
    low = [n for n in nodes if n not in decision.main]
    dequantised = {name for n in low if n.op in ops for name in n.inputs[:2]}
    shared = [n.label for n in decision.main if not dequantised.isdisjoint(n.inputs)]
    said = ["# ONNX Runtime hands a tensor or weight that is quantised for one reader to all of its readers,",
            "# dequantised. These would read such ones, which they do not in the fixed file of this report:",
            *(f"# {label!r}" for label in shared)] if shared else []
    if "Conv" in ops and any(n.op == FUSED_CONV for n in low):
        said.append(f"# It quantises no {FUSED_CONV}; the variant of this report took them apart first.")
    if any(inner.op in ops for n in nodes for body in n.subgraphs.values() for inner in all_nodes(body)):
        said.append("# It quantises nothing inside If, Loop and Scan.")
    return said


def _model_optimizer(decision: _Decision) -> str:
    halves = set(decision.kept.values()) == {"fp16"}
    note = "# What is not quantised is all of one type here." if halves else "# Its default would be FP16 for these."
    prepared, source = _prepared(decision)
    return "\n".join([
        *(["import onnx"] if prepared else []), "from modelopt.onnx.quantization import quantize", "", *prepared,
        *decision.unreached(decision.main), "quantize(", f"    {quoted(source)},",
        '    quantize_mode="int8",',
        "    calibration_data=calibration_data,  # yours: arrays by name of input",
        f"    op_types_to_quantize={json.dumps(decision.settings.ops)},",
        "    # Regular expressions, matched from the start of a node's name.",
        f"    nodes_to_exclude={listed(patterns(decision.labels(decision.main)))},",
        f"    {note}", f"    high_precision_dtype={quoted('fp16' if halves else 'fp32')},",
        f"    output_path={quoted(decision.beside('int8.onnx'))},", ")"])


def _autocast(decision: _Decision) -> str:
    prepared, source = _prepared(decision)
    return "\n".join([
        "import onnx", "from modelopt.onnx.autocast import convert_to_mixed_precision", "", *prepared,
        *decision.unreached(decision.main),
        "# AutoCast fuses a LayerNormalization made of parts first: those of its nodes then have other names.",
        "converted = convert_to_mixed_precision(", f"    {quoted(source)},",
        f"    low_precision_type={quoted(decision.low)},",
        "    # Regular expressions, matched from the start of a node's name.",
        f"    nodes_to_exclude={listed(patterns(decision.labels(decision.main)))},",
        '    data_max=float("inf"),  # or it keeps nodes whose values pass 512, too', "    keep_io_types=True,", ")",
        f"onnx.save(converted, {quoted(decision.beside(f'{decision.low}.onnx'))})"])


def _converter(decision: _Decision) -> str:
    model = decision.model
    reached = [n for n in decision.nodes if n in decision.main or (n.proto.name and decision.names[n.proto.name] == 1)]
    inner = [n.proto.name for n in reached if n not in decision.main]
    casts = [n for n in decision.labels(model.graph.producer[name] for name in widening(model))
             if n not in decision.labels(decision.main)]
    prepared, source = _prepared(decision, freed(model), [*typed(model, decision.real), *outputs_apart(model)])
    own = own_weights(model)
    return "\n".join([
        "import onnx", "from onnxconverter_common import float16", "", *prepared, *decision.unreached(reached),
        *(["# It does not get right what is inside If, Loop and Scan: take the fixed file of this report instead."]
          if any(n.subgraphs for n in model.graph.nodes) else []),
        "# Besides these, the operator types in float16.DEFAULT_OP_BLOCK_LIST stay in FP32.",
        *(["# It leaves Casts to FP32 as they are, so these must be among them."] if casts else []),
        f"KEPT = {listed([*decision.labels(decision.main), *inner, *casts], '')}",
        f"model = onnx.load({quoted(source)})", *own,
        "converted = float16.convert_float_to_float16(model, keep_io_types=True, node_block_list=KEPT)",
        f"onnx.save(converted, {quoted(decision.beside('fp16.onnx'))})"])


def _trt_layers(decision: _Decision) -> tuple[list[tuple[Node, str]], list[str]]:
    """Kept nodes with the names of their layers in TensorRT, and comments on those that have none."""
    layers, said = [], decision.unreached(decision.nodes)
    for node in decision.nodes:
        name = node.proto.name
        if decision.real.isdisjoint((*node.reads, *node.outputs)):
            continue  # TensorRT refuses to give integers a precision
        if node.op in _CONTROL:
            said.append(f"# {node.label!r} ({node.op}) is no layer of its own in TensorRT.")
        elif decision.names[name] > 1 and name:
            said.append(f"# {name!r} is the name of {decision.names[name]} nodes: rename them first.")
        else:
            # TensorRT's parser makes up this name where there is none.
            layers.append((node, name or f"node_of_{node.proto.output[0]}"))
    return layers, said


def _formats(decision: _Decision) -> list[str]:
    """The builder's flags for the precisions that layers may have."""
    used = {decision.low, *decision.kept.values()} - {"fp32"}
    return [f"--{precision}" for precision in ("int8", "bf16", "fp16") if precision in used]


_ONLY_10 = "# Up to TensorRT 10 and without --stronglyTyped; 11 takes the types of the graph: give it the fixed file."


def _trtexec(decision: _Decision) -> str:
    layers, said = _trt_layers(decision)
    speakable = [(node, name) for node, name in layers if not _UNSPEAKABLE & set(name)]
    said += [f"# {name!r} holds a comma, a single quote or a star, which trtexec cannot be given: rename the node."
             for _, name in layers if _UNSPEAKABLE & set(name)]
    precisions = [f"{name}:{decision.kept[node.outputs[0]]}" for node, name in speakable]
    # Its result would be stored in the lower type without this; a type for an integer result is refused.
    types = [entry for (node, _), entry in zip(speakable, precisions, strict=True)
             if decision.real.issuperset(node.outputs)]
    if decision.low == "int8":
        said.append("# Ranges are read from a cache. Every other layer may take INT8 where it has such a kernel.")
    arguments = [f"--onnx={decision.path}", *_formats(decision),
                 *(["--calib=calibration.cache"] if decision.low == "int8" else []), "--precisionConstraints=obey",
                 *([f"--layerPrecisions={','.join(precisions)}"] if precisions else []),
                 *([f"--layerOutputTypes={','.join(types)}"] if types else [])]
    return "\n".join([_ONLY_10, *said, " \\\n  ".join(["trtexec", *map(shlex.quote, arguments)])])


def _polygraphy(decision: _Decision) -> str:
    layers, said = _trt_layers(decision)
    calibration = ["--calibration-cache", "calibration.cache"] if decision.low == "int8" else []
    command = ["polygraphy", "convert", decision.path, "-o", decision.beside("engine"), *_formats(decision),
               *calibration, "--precision-constraints", "obey", "--trt-network-postprocess-script", "keep.py"]
    kept = [f"    {quoted(name)}: trt.{_TRT_TYPES[decision.kept[node.outputs[0]]]}," for node, name in layers]
    return "\n".join([_ONLY_10, f"# Save as keep.py, then: {shlex.join(command)}", *said, "import tensorrt as trt", "",
                      "KEPT = {", *kept, "}", _POSTPROCESS])


# A node may become several layers; all of them carry its name as metadata, one as its name.
_POSTPROCESS = '''

def postprocess(network):
    marks = {f"[ONNX Layer: {name}]": precision for name, precision in KEPT.items()}
    for layer in network:
        precision = marks.get(layer.metadata, KEPT.get(layer.name))
        real = [i for i in range(layer.num_outputs) if layer.get_output(i).dtype in (trt.float32, trt.float16)]
        if precision is not None and real:
            layer.precision = precision
            for i in real:
                layer.set_output_type(i, precision)'''


_TOOLS: Mapping[str, tuple[Sequence[Precision], Callable[[_Decision], str]]] = {
    "ONNX Runtime quantize_static": (("int8",), _onnxruntime),
    "Model Optimizer quantize": (("int8",), _model_optimizer),
    "Model Optimizer AutoCast": (("fp16", "bf16"), _autocast),
    "onnxconverter-common": (("fp16",), _converter),
    "trtexec": (("fp16", "bf16", "int8"), _trtexec),
    "Polygraphy": (("fp16", "bf16", "int8"), _polygraphy),
}
