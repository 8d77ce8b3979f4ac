"""The test that goes with a repro: onnx's file, the runtime, numpy, and nothing of parity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from string import Template

from parity.backends.base import RunOptions
from parity.backends.providers import requested
from parity.errors import UsageError
from parity.reduce.expect import Expectation
from parity.targets import Target

RERUN = "REPRO_MODEL=other.onnx runs another model on the same inputs."  # by which the test is known again
_TEST = Template('''\
"""$title

Run it as it is (`python test_repro.py`) or with pytest. $rerun
Needs numpy and $packages.
"""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
MODEL = Path(os.environ.get("REPRO_MODEL", HERE / "repro.onnx")).resolve()
# Of each output: how its difference from expected.npz is measured ("l2": its norm, "max": its greatest element), and
# how large that may be.
TOLERANCES = $tolerances

$run

def difference(got, expected, norm):
    """How far an output is off; inf for another shape, and for NaN or Inf in other places."""
    if got.shape != expected.shape:
        return float("inf")
    if expected.dtype.kind in "SU":
        return 0.0 if (got.astype(expected.dtype) == expected).all() else float("inf")
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(got[~finite], expected[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return float("inf")
    gap = np.abs(got[finite] - expected[finite])
    return float(np.linalg.norm(gap) if norm == "l2" else gap.max(initial=0.0))


def wrong_outputs():
    """One line for each output that is further off than it may be."""
    with np.load(HERE / "inputs.npz") as inputs, np.load(HERE / "expected.npz") as expected:
        outputs = run(MODEL, dict(inputs))
        lines = []
        for name, (norm, tolerance) in TOLERANCES.items():
            found = difference(np.asarray(outputs[name]), expected[name], norm)
            print(f"{name}: difference {found:.6g} ({norm}), tolerance {tolerance:.6g}")
            if not found <= tolerance:
                lines.append(f"{name} is off by {found:.6g} ({norm}), tolerance {tolerance:.6g}")
        return lines


def test_outputs():
    """$claim"""
$body

if __name__ == "__main__":
    wrong = wrong_outputs()
    sys.exit("WRONG: " + "; ".join(wrong) if wrong else 0)
''')

_HERE = '''\
    wrong = wrong_outputs()
    assert not wrong, "; ".join(wrong)
'''
# A runtime that brings its process down must not take pytest with it.
_APART = '''\
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-1000:]}"
'''

_ONNXRUNTIME = Template('''
def run(model, inputs):
    """The outputs by name."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.$level
    options.intra_op_num_threads = $threads
    options.log_severity_level = 4
    session = ort.InferenceSession(str(model), options, providers=$providers)
    assert session.get_providers()[0] == $providers[0][0], f"fell back to {session.get_providers()}"
    names = [output.name for output in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}
    return dict(zip(names, session.run(names, {n: v for n, v in inputs.items() if n in wanted})))

''')
_LEVELS = {"off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED",
           "all": "ORT_ENABLE_ALL"}
# As parity's own backend translates optimisation for a builder that always fuses.
_BUILDING = {level: f"    config.builder_optimization_level = {number}\n"
             for level, number in (("off", 0), ("basic", 1), ("extended", 2))}

_TENSORRT = Template('''
def run(model, inputs):
    """The outputs by name: the engine is built here, and memory is the driver's own."""
    import ctypes

    import $library as trt

    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name, *arguments):
        status = getattr(cuda, name)(*arguments)
        assert status == 0, f"{name}: CUDA error {status}"

    context = ctypes.c_void_p()
    call("cuInit", 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), $device)
    call("cuCtxSetCurrent", context)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(model)), "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
    config = builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "TF32") and not $tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
$level    plan = builder.build_serialized_network(network, config)
    assert plan is not None, "no engine can be built"
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    execution = engine.create_execution_context()
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    fed = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
    arrays = {n: np.ascontiguousarray(inputs[n]) for n in fed}
    for name in fed:
        execution.set_input_shape(name, arrays[name].shape)
    for name in names:
        if name not in arrays:
            shape = tuple(execution.get_tensor_shape(name))
            arrays[name] = np.empty(shape, trt.nptype(engine.get_tensor_dtype(name)))
    memory = {}
    for name, array in arrays.items():
        memory[name] = ctypes.c_uint64()
        call("cuMemAlloc_v2", ctypes.byref(memory[name]), ctypes.c_size_t(max(array.nbytes, 1)))
        if name in fed:
            call("cuMemcpyHtoD_v2", memory[name], array.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(array.nbytes))
        execution.set_tensor_address(name, memory[name].value)
    assert execution.execute_async_v3(0), "the engine does not run"
    call("cuCtxSynchronize")
    for name, array in arrays.items():
        if name not in fed:
            call("cuMemcpyDtoH_v2", array.ctypes.data_as(ctypes.c_void_p), memory[name], ctypes.c_size_t(array.nbytes))
    return {name: array for name, array in arrays.items() if name not in fed}

''')


def runner_for(target: Target, options: RunOptions) -> tuple[str, str]:
    """The function that runs a model on a target in plain Python, and the packages that it needs.

    Raises:
        UsageError: no such function is known for this backend.
    """
    device = target.device or "cpu"
    if target.backend == "onnxruntime":
        providers = requested(device, tf32=options.tensorrt.tf32)
        code = _ONNXRUNTIME.substitute(level=_LEVELS[options.optimization], threads=options.threads,
                                       providers=repr(providers))
        return code, "onnxruntime" if device == "cpu" else "onnxruntime-gpu"
    if target.backend in ("tensorrt", "tensorrt-rtx"):
        library = target.backend.replace("-", "_")
        number = target.device.partition(":")[2] or "0"
        code = _TENSORRT.substitute(device=number, tf32=options.tensorrt.tf32, library=library,
                                    level=_BUILDING.get(options.optimization, ""))
        return code, library
    raise UsageError(f"{target.backend} cannot be run without parity, so there is no repro to send to anybody",
                     "Name a runtime: -c onnxruntime or -c tensorrt.")


def script_of(title: str, claim: str, expected: Sequence[Expectation], target: Target, options: RunOptions, *,
              apart: bool) -> str:
    """The text of test_repro.py.

    Args:
        title: what it is about, in one line.
        claim: what the test holds to be so, in one line.
        expected: of each output.
        target: that it runs on.
        options: how it is run.
        apart: run in a process of its own, because the fault may end it.

    Raises:
        UsageError: no plain test is known for this backend.
    """
    run, packages = runner_for(target, options)
    lines = "".join(f"    {json.dumps(e.tensor)}: ({e.norm!r}, {e.tolerance!r}),  # {e.why}\n" for e in expected)
    text = _TEST.substitute(
        title=_quotable(title), rerun=RERUN, claim=_quotable(claim), packages=packages, run=run,
        tolerances="{\n" + lines + "}", body=_APART if apart else _HERE)
    return text if apart else text.replace("import subprocess\n", "")


def _quotable(text: str) -> str:
    """Text for a docstring: names of tensors may hold anything."""
    return " ".join(text.split()).replace("\\", "\\\\").replace('"""', "'''")
