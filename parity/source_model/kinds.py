"""Which ONNX operators a PyTorch operator becomes: evidence where values alone do not decide."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# What does not merely change its spelling.
_BECOMES: Mapping[str, frozenset[str]] = MappingProxyType({name: frozenset(ops.split()) for name, ops in {
    "mm": "matmul", "bmm": "matmul", "matmul": "matmul", "addmm": "gemm", "baddbmm": "gemm",
    "convolution": "conv convtranspose", "mean": "reducemean globalaveragepool", "sum": "reducesum",
    "amax": "reducemax", "amin": "reducemin", "native_layer_norm": "layernormalization",
    "native_group_norm": "groupnormalization", "native_batch_norm": "batchnormalization",
    "_softmax": "softmax", "_safe_softmax": "softmax", "_log_softmax": "logsoftmax", "cat": "concat",
    "stack": "concat", "embedding": "gather", "index_select": "gather", "max_pool2d_with_indices": "maxpool",
    "avg_pool2d": "averagepool", "_adaptive_avg_pool2d": "globalaveragepool averagepool", "hardtanh": "clip relu6",
    "clamp": "clip relu", "clamp_min": "clip max relu", "masked_fill": "where", "upsample_nearest2d": "resize",
    "upsample_bilinear2d": "resize", "rsub": "sub", "_fused_rms_norm": "rmsnormalization",
    "leaky_relu": "leakyrelu", "constant_pad_nd": "pad", "select": "gather", "pow": "pow mul"}.items()})
# What the exporter's program has in one piece reaches the dispatcher in several; these are its last.
_LAST: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "linear": ("addmm", "mm", "bmm", "add"), "matmul": ("mm", "bmm", "mv", "dot"), "conv1d": ("convolution",),
    "conv2d": ("convolution",), "conv3d": ("convolution",), "conv_transpose2d": ("convolution",),
    "scaled_dot_product_attention": ("bmm",), "layer_norm": ("native_layer_norm",),
    "group_norm": ("native_group_norm",), "softmax": ("_softmax", "_safe_softmax"), "log_softmax": ("_log_softmax",),
    "_native_batch_norm_legit_no_training": ("native_batch_norm",), "batch_norm": ("native_batch_norm",),
    "max_pool2d": ("max_pool2d_with_indices",), "adaptive_avg_pool2d": ("mean", "_adaptive_avg_pool2d"),
    "rms_norm": ("_fused_rms_norm", "mul"), "clamp": ("clamp", "clamp_min", "clamp_max"), "sub": ("sub", "rsub")})


def becomes(op: str, onnx_op: str) -> bool:
    """Whether a PyTorch operator ("_softmax") is translated to an ONNX operator ("Softmax")."""
    plain = onnx_op.lower()
    return plain in _BECOMES.get(op, ()) or plain == op.replace("_", "")


def last_of(op: str) -> tuple[str, ...]:
    """The operators, any of which reaches the dispatcher last of one in an exported program ("linear")."""
    return _LAST.get(op, (op,))
