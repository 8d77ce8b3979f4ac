"""Self-checks: what does not repeat, couples rows or depends on the build is found, and the tensor is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx.parser
import pytest
from onnx import ModelProto, numpy_helper

from parity.backends import base
from parity.backends.base import Feed, RunOptions, Session
from parity.backends.ort import OnnxRuntime
from parity.backends.planted import Fault
from parity.errors import BackendUnavailable, UsageError
from parity.graph.feeds import load_feed
from parity.graph.model import Model
from parity.selfcheck import CHECKS, Check, describe, exit_status, run_checks
from parity.targets import Target
from tests.models import FIXTURES, SHARED, RealModel

ORT, TORCH = Target("onnxruntime"), Target("pytorch")
RANDOM = np.random.default_rng(0)


def model_of(body: str, shape: str = "N,6", result: str = "N,6", opset: int = 17) -> Model:
    """A model of input x and output y, with float weights W [6, 6]; `body` is in ONNX's textual form."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{shape}] x) => (float[{result}] y) {{ {body} }}')
    proto.graph.initializer.append(numpy_helper.from_array(RANDOM.normal(size=(6, 6)).astype(np.float32), "W"))
    return Model.from_proto(proto)


def feed_of(rows: int = 4, shape: tuple[int, ...] = (6,)) -> Feed:
    """A value for x."""
    return {"x": np.random.default_rng(1).normal(size=(rows, *shape)).astype(np.float32)}


def checked(model: Model, *names: str, feed: Feed | None = None, target: Target = ORT) -> dict[str, Check]:
    """The findings by name."""
    found = run_checks(model, target, feed or feed_of(), RunOptions(threads=1), names or None)
    return {check.name: check for check in found}


def first_of(check: Check) -> tuple[str, str]:
    """The tensor that a check names, and its operator."""
    assert check.first is not None
    return check.first.tensor, check.first.op


def clean(check: Check) -> bool:
    """Passed or not applicable; a CPU's vector tails may round a row and its copy apart, by noise."""
    return check.status in ("passed", "not applicable") or (check.name == "rows" and check.gap.rel_l2 <= 1e-6)


@pytest.mark.parametrize("target", [ORT, TORCH], ids=str)
@pytest.mark.parametrize("name", ["digits_cnn", "digits_transformer", "digits_rnn"])
def test_clean_models_pass(name: str, target: Target) -> None:
    """No check finds more than rounding in a trained network, and the exit status follows."""
    fixture = RealModel(FIXTURES / name)
    model = Model.load(fixture.path)
    feed, _ = load_feed(model, [str(fixture.inputs_path)])
    feed = {n: v[:8] for n, v in feed.items()}
    found = run_checks(model, target, feed, RunOptions(threads=1))
    assert [c.name for c in found] == list(CHECKS)
    assert [c.describe() for c in found if not clean(c)] == []
    assert exit_status(found) == int(any(c.status == "parted" for c in found))


@pytest.mark.parametrize("draw", ["RandomNormalLike(h)", "RandomUniformLike <low = 0.5> (h)", "Bernoulli(p)"])
def test_a_random_operator_is_named(draw: str) -> None:
    """Two runs of one session differ, and the operator that draws is the first tensor that parts."""
    check = checked(model_of(f"h = MatMul(x, W) p = Sigmoid(h) noise = {draw} y = Add(h, noise)"), "repeat")["repeat"]
    assert check.status == "parted"
    assert first_of(check) == ("noise", draw.partition("(")[0].partition(" ")[0])
    assert check.first is not None
    assert check.first.limit is None
    assert check.first.gap.max_abs > 0
    assert exit_status([check]) == 1


def test_a_seeded_random_operator_does_not_repeat_either() -> None:
    """A seed fixes where a session starts, not what its second run draws; the next session starts there again."""
    found = checked(model_of("noise = RandomNormalLike <seed = 7.0> (x) y = Add(x, noise)"), "repeat", "rebuild")
    assert first_of(found["repeat"]) == ("noise", "RandomNormalLike")
    assert found["rebuild"].status == "passed"


def test_a_random_operator_in_a_branch_is_named() -> None:
    """The branch taken is looked into."""
    body = """yes = Constant <value = bool {1}> ()
              y = If (yes) <then_branch = t () => (float[N,6] a) { n = RandomNormalLike(x) a = Add(n, x) },
                            else_branch = e () => (float[N,6] b) { b = Neg(x) }>"""
    check = checked(model_of(body), "repeat")["repeat"]
    assert first_of(check)[1] == "RandomNormalLike"


def test_small_memory_looks_in_groups() -> None:
    """With little memory the tensors are watched a few at a time, and the same one is named."""
    model = model_of("a = MatMul(x, W) b = Relu(a) noise = RandomNormalLike(b) c = Add(b, noise) y = Relu(c)")
    check, = run_checks(model, ORT, feed_of(), RunOptions(threads=1, memory=1), ["repeat"])
    assert first_of(check) == ("noise", "RandomNormalLike")


@pytest.mark.parametrize("target", [ORT, TORCH], ids=str)
def test_softmax_over_the_batch_is_named(target: Target) -> None:
    """An operator that couples the rows makes a row in company differ from itself alone."""
    model = model_of("h = MatMul(x, W) s = Softmax <axis = 0> (h) y = Add(s, x)")
    check = checked(model, "batch", target=target)["batch"]
    assert check.status == "parted"
    assert first_of(check) == ("s", "Softmax")
    assert check.gap.rel_l2 > 0.1
    assert check.first is not None
    assert check.first.limit is not None
    assert check.first.limit < 1e-4


def test_batch_normalization_in_training_mode_is_named() -> None:
    """Statistics of the batch couple its rows; seeded rows stand beside a feed of one row."""
    model = model_of("""h = MatMul(x, W) one = Constant <value = float[6] {1, 1, 1, 1, 1, 1}> ()
                        n, mean, var = BatchNormalization <training_mode = 1> (h, one, one, one, one) y = Relu(n)""")
    for feed in (feed_of(4), feed_of(1)):
        check = checked(model, "batch", feed=feed, target=TORCH)["batch"]
        assert check.status == "parted"
        assert first_of(check) == ("n", "BatchNormalization")


@pytest.mark.parametrize("target", [ORT, TORCH], ids=str)
def test_rows_that_depend_on_their_place_are_named(target: Target) -> None:
    """A sum along the batch makes two copies of a row differ."""
    model = model_of("h = MatMul(x, W) axis = Constant <value = int64 {0}> () s = CumSum(h, axis) y = Relu(s)")
    check = checked(model, "rows", target=target)["rows"]
    assert check.status == "parted"
    assert check.limit is None
    assert first_of(check) == ("s", "CumSum")


MERGED = """t = Transpose <perm = [1, 0, 2]> (x) flat = Constant <value = int64[2] {{-1, 6}}> () m = Reshape(t, flat)
            h = MatMul(m, W) {middle} five = Constant <value = int64[3] {{5, -1, 6}}> () r = Reshape(k, five)
            y = Transpose <perm = [1, 0, 2]> (r)"""


def test_rows_are_found_where_the_batch_is_merged_behind_another_axis() -> None:
    """Time-major layouts interleave the rows: no alarm where they are independent, the right tensor where not."""
    alone, coupled = (model_of(MERGED.format(middle=k), "N,5,6", "N,5,6")
                      for k in ("k = Relu(h)", "k = Softmax <axis = 0> (h)"))
    feed = feed_of(3, (5, 6))
    assert {c.status for c in checked(alone, "rows", "batch", feed=feed).values()} == {"passed"}
    assert first_of(checked(coupled, "batch", feed=feed)["batch"]) == ("k", "Softmax")


def test_a_fixed_batch_is_not_checked() -> None:
    """Where the model fixes its first dimension the two checks say so, and nothing fails."""
    found = checked(model_of("y = MatMul(x, W)", "4,6", "4,6"))
    assert {n for n, c in found.items() if c.status == "not applicable"} == {"rows", "batch"}
    assert "fixed batch" in found["batch"].describe()
    assert exit_status(list(found.values())) == 0


def test_an_open_time_axis_is_no_batch() -> None:
    """A leading dimension that is named after time does not count rows."""
    found = checked(model_of("y = Softmax <axis = 0> (x)", "seq_len,6", "seq_len,6"), "rows", "batch")
    assert {c.status for c in found.values()} == {"not applicable"}


def test_a_batch_that_is_open_in_name_only() -> None:
    """A model that takes one batch size only is told apart from one that couples rows."""
    model = model_of("s = Constant <value = int64[2] {4, 6}> () y = Reshape(x, s)")
    for target in (ORT, TORCH):
        found = checked(model, "rows", "batch", target=target)
        assert {c.status for c in found.values()} == {"not applicable"}
        assert "not for 1 and 4 rows" in found["batch"].reason


def test_an_output_without_rows() -> None:
    """A mean over everything has no rows to compare."""
    found = checked(model_of("y = ReduceMean <keepdims = 0> (x)", result=""), "rows", "batch")
    assert {c.reason for c in found.values()} == {"no output has a row for each row of the inputs"}


def scaled_relu(proto: ModelProto) -> None:
    """Make the second Relu a leaky one: what a wrong fusion may do."""
    node = [n for n in proto.graph.node if n.op_type == "Relu"][1]
    node.op_type = "LeakyRelu"
    node.attribute.append(onnx.helper.make_attribute("alpha", 0.05))


FAULT = Fault("Relu: swapped", "second", scaled_relu)
CHAIN = "a = MatMul(x, W) b = Relu(a) c = MatMul(b, W) second = Relu(c) y = MatMul(second, W)"


class WrongWhenOptimized(OnnxRuntime):
    """ONNX Runtime with a fault in all that it optimises."""

    def open(self, model: Model, flat: Model, target: Target, options: RunOptions) -> Session:
        """Plant the fault unless optimisation is off."""
        sides = (model, flat) if options.optimization == "off" else (FAULT.plant(model), FAULT.plant(flat))
        return super().open(*sides, replace(target, backend="onnxruntime"), options)


class WrongWhenRebuilt(OnnxRuntime):
    """ONNX Runtime that is right the first time only."""

    builds = 0

    def open(self, model: Model, flat: Model, target: Target, options: RunOptions) -> Session:
        """Plant the fault in every build but the first."""
        WrongWhenRebuilt.builds += 1
        sides = (model, flat) if WrongWhenRebuilt.builds == 1 else (FAULT.plant(model), FAULT.plant(flat))
        return super().open(*sides, replace(target, backend="onnxruntime"), options)


@pytest.mark.parametrize(("backend", "name"), [(WrongWhenOptimized, "optimization"), (WrongWhenRebuilt, "rebuild")])
def test_a_faulty_build_is_found(backend: type[OnnxRuntime], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that computes one node wrong after optimising, or in a second build, is caught at that node."""
    monkeypatch.setitem(base._BUILT_IN, "wrong", f"{__name__}:{backend.__name__}")
    WrongWhenRebuilt.builds = 0
    check = checked(model_of(CHAIN), name, target=Target("wrong"))[name]
    assert check.status == "parted"
    assert first_of(check)[0] == "second"
    assert "'second'" in check.describe()


def test_optimization_is_checked_where_it_is_off() -> None:
    """With the level "off" asked for, off is still held against on."""
    check, = run_checks(model_of(CHAIN), ORT, feed_of(), RunOptions("off", threads=1), ["optimization"])
    assert check.status == "passed"
    assert check.output == "y"
    assert exit_status([check]) == 0
    assert check.describe().startswith("✓ optimization")


def test_a_run_that_breaks_makes_the_status_2() -> None:
    """A check that could not run counts for more than one that passed, and says why."""
    model = model_of("i = Constant <value = int64[1] {9}> () y = Gather <axis = 1> (x, i)", result="N,1")
    found = run_checks(model, ORT, feed_of(), RunOptions(threads=1), ["repeat", "rebuild"])
    assert {c.status for c in found} == {"failed"}
    assert exit_status(found) == 2
    assert "onnxruntime fails while running" in describe(found)


def test_what_cannot_be_asked_is_refused() -> None:
    """An unknown check and a target that is not here are errors of their own."""
    model = model_of("y = Relu(x)")
    with pytest.raises(UsageError, match="no check is called 'speed'"):
        run_checks(model, ORT, feed_of(), RunOptions(), ["speed"])
    with pytest.raises(BackendUnavailable):
        run_checks(model, Target("onnxruntime", "abacus"), feed_of(), RunOptions())


def test_a_feed_of_one_row_is_grown() -> None:
    """Rows are made for a batch of one, and independent ones pass."""
    found = checked(model_of(CHAIN), "rows", "batch", feed=feed_of(1))
    assert {c.status for c in found.values()} == {"passed"}


def test_states_with_the_batch_on_another_axis() -> None:
    """An input that counts the same symbol on its second axis is sliced there."""
    proto = onnx.parser.parse_model('''<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,6] x, float[2,N,6] h, float[6] scale) => (float[N,6] y, float[2,N,6] next)
        { next = Mul(h, scale) s = ReduceSum <keepdims = 0> (next, axis) y = Add(x, s) }''')
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "axis"))
    feed = {**feed_of(3), "h": np.random.default_rng(2).normal(size=(2, 3, 6)).astype(np.float32),
            "scale": np.arange(6, dtype=np.float32)}
    found = checked(Model.from_proto(proto), "rows", "batch", feed=feed)
    assert {c.status for c in found.values()} == {"passed"}


@pytest.mark.models
@pytest.mark.parametrize("name", ["cifar10_tinycnn", "mnist_cntk", "speech_squeezenet", "silero_vad_ifless",
                                  "osf_gaze", "magika_v1"])
def test_real_models_repeat(name: str) -> None:
    """No check finds more than rounding in trained models on ONNX Runtime."""
    real = RealModel(SHARED / name)
    model = Model.load(real.path)
    feed, _ = load_feed(model, [str(real.inputs_path)])
    found = run_checks(model, ORT, feed, RunOptions(threads=1))
    assert [c.describe() for c in found if not clean(c)] == []
    assert {c.name for c in found if c.status == "passed"} >= {"repeat", "optimization", "rebuild"}
