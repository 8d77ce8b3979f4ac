"""Feeds: what is read from files, what is refused, and that seeded inputs are valid and the same everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import FunctionProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from parity.errors import FeedError, ModelError, UsageError
from parity.graph.feeds import Feed, InputSource, check_feed, load_arrays, load_feed, parse_shape, seeded_feed
from parity.graph.model import Model
from parity.graph.seeding import Bits, Lengths, Mask, Normal, Positive

F32, F16, I32, I64, BOOL, U8 = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64,
                                TensorProto.BOOL, TensorProto.UINT8)
Dims = Sequence[int | str | None] | None


def value(name: str, dims: Dims, elem_type: int = F32) -> ValueInfoProto:
    """Declare a tensor."""
    return helper.make_tensor_value_info(name, elem_type, dims)


def model_of(nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto],
             weights: Mapping[str, np.ndarray] | None = None, outputs: Sequence[ValueInfoProto] = (),
             functions: Sequence[FunctionProto] = ()) -> Model:
    """A model; without declared outputs, the last node's first output, of float32 and any shape."""
    tensors = [numpy_helper.from_array(w, n) for n, w in (weights or {}).items()]
    outputs = outputs or [value(nodes[-1].output[0], None)]
    opsets = [helper.make_opsetid(d, v) for d, v in {"": 17, "com.microsoft": 1, "own": 1}.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return Model.from_proto(helper.make_model(graph, ir_version=8, opset_imports=opsets, functions=functions))


def run(model: Model, feed: Feed) -> list[np.ndarray]:
    """All outputs by ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    source = str(model.path) if model.path else model.proto.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return [np.asarray(v) for v in session.run(None, dict(feed))]


def two_inputs() -> Model:
    """The model y = x + z with x and z float32 [batch, 3]."""
    return model_of([helper.make_node("Add", ["x", "z"], ["y"])], [value("x", ["batch", 3]), value("z", ["batch", 3])])


def one_input(elem_type: int = F32, dims: Dims = (2, 3)) -> Model:
    """The model y = x."""
    return model_of([helper.make_node("Identity", ["x"], ["y"])], [value("x", dims, elem_type)],
                    outputs=[value("y", dims, elem_type)])


A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)


# Shapes given by the user


@pytest.mark.parametrize(("text", "parsed"), [
    ("x=1x3x224x224", ("x", (1, 3, 224, 224))), ("a=b:0=7", ("a=b:0", (7,))),
    ("past=1x12x0x64", ("past", (1, 12, 0, 64)))])
def test_parse_shape(text: str, parsed: tuple[str, tuple[int, ...]]) -> None:
    """A name, an equals sign, sizes; the name itself may hold equals signs."""
    assert parse_shape(text) == parsed


@pytest.mark.parametrize("text", ["", "x", "x=", "=1x3", "x=1x", "x=axb", "x=1,3", "x=-1x3", "x=1 x 3", "x=1x3.5"])
def test_parse_shape_refuses_nonsense(text: str) -> None:
    """Anything else is a usage error that shows the form."""
    with pytest.raises(UsageError, match="NAME=AxBxC"):
        parse_shape(text)


# Files


def test_npz_with_labels_beside_the_inputs(tmp_path: Path) -> None:
    """Arrays that are no inputs are left alone, and can still be had; the feed is in the model's order."""
    path = tmp_path / "data.npz"
    np.savez(path, labels=np.arange(2), z=B, x=A)
    feed, sources = load_feed(two_inputs(), [str(path)])
    assert list(feed) == ["x", "z"]
    np.testing.assert_array_equal(feed["x"], A)
    assert sources == (InputSource("x", "file data.npz"), InputSource("z", "file data.npz"))
    np.testing.assert_array_equal(load_arrays(path)["labels"], np.arange(2))


def test_one_file_an_input(tmp_path: Path) -> None:
    """NAME=FILE takes a .npy, a .pb, or an .npz that holds the name or just one array."""
    np.save(tmp_path / "a.npy", A)
    (tmp_path / "b.pb").write_bytes(numpy_helper.from_array(B, "whatever").SerializeToString())
    np.savez(tmp_path / "one.npz", something=A)
    np.savez(tmp_path / "two.npz", z=B, other=A)
    for first, second in (("a.npy", "b.pb"), ("one.npz", "two.npz")):
        feed, _ = load_feed(two_inputs(), [f"x={tmp_path / first}", f"z={tmp_path / second}"])
        np.testing.assert_array_equal(feed["x"], A)
        np.testing.assert_array_equal(feed["z"], B)
    with pytest.raises(FeedError, match="'z', 'other'"):
        load_feed(two_inputs(), [f"x={tmp_path / 'two.npz'}"])


def test_lone_array_for_the_only_input(tmp_path: Path) -> None:
    """A .npy or .pb without a name serves a model of one input, and is refused for one of two."""
    np.save(tmp_path / "a.npy", A)
    (tmp_path / "a.pb").write_bytes(numpy_helper.from_array(A, "stranger").SerializeToString())
    for name in ("a.npy", "a.pb"):
        feed, _ = load_feed(one_input(), [str(tmp_path / name)])
        np.testing.assert_array_equal(feed["x"], A)
        with pytest.raises(FeedError, match="does not say which input"):
            load_feed(two_inputs(), [str(tmp_path / name)])


def test_folder_of_onnx_test_data(tmp_path: Path) -> None:
    """Files input_0.pb, … go to the inputs by their names, else in the model's order."""
    for names in (("z", "x"), ("", "")):
        arrays = (B, A) if names[0] else (A, B)
        for i, (name, array) in enumerate(zip(names, arrays, strict=True)):
            (tmp_path / f"input_{i}.pb").write_bytes(numpy_helper.from_array(array, name).SerializeToString())
        feed, _ = load_feed(two_inputs(), [str(tmp_path)])
        np.testing.assert_array_equal(feed["x"], A)
        np.testing.assert_array_equal(feed["z"], B)


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    """A folder without input_0.pb is told so."""
    with pytest.raises(FeedError, match=r"no input_0\.pb"):
        load_feed(one_input(), [str(tmp_path)])


def test_names_that_contain_equals_and_colons(tmp_path: Path) -> None:
    """TensorFlow's input names hold colons; NAME= is matched against the model's own names."""
    np.save(tmp_path / "k=v.npy", A)
    model = model_of([helper.make_node("Identity", ["in=put:0"], ["y"])], [value("in=put:0", [2, 3])])
    for source in (f"in=put:0={tmp_path / 'k=v.npy'}", str(tmp_path / "k=v.npy")):
        np.testing.assert_array_equal(load_feed(model, [source])[0]["in=put:0"], A)


class Payload:
    """What a pickle would rebuild by running code."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Make a directory, if it is ever called."""
        return Path.mkdir, (Path("pwned"),)


def test_pickles_are_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object array in .npz or .npy is refused in one line, and its code has not run."""
    monkeypatch.chdir(tmp_path)
    evil = np.empty(1, object)
    evil[0] = Payload()
    np.savez(tmp_path / "evil.npz", x=evil)
    np.save(tmp_path / "evil.npy", evil)
    for name in ("evil.npz", "evil.npy"):
        with pytest.raises(FeedError, match="pickled Python objects"):
            load_feed(one_input(), [str(tmp_path / name)])
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(("name", "content"), [
    ("a.npz", b""), ("a.npz", b"PK\x03\x04 cut off"), ("a.npy", b""), ("a.npy", b"\x93NUMPY\x01\x00"),
    ("a.pb", b"\xff\xff\xff"), ("a.pb", b""),
    ("a.pb", TensorProto(data_type=99, dims=[1], raw_data=b"1234").SerializeToString()),
    ("a.pb", TensorProto(data_type=1, dims=[3], raw_data=b"1234").SerializeToString()), ("a.npz", b"plain text"),
    ("a.txt", b"1 2 3")])
def test_damaged_and_foreign_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """A damaged, empty or foreign file is a FeedError that names it, never another exception."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FeedError, match=name) as caught:
        load_feed(one_input(), [str(tmp_path / name)])
    assert caught.value.hint


def test_test_data_may_not_point_at_other_files(tmp_path: Path) -> None:
    """A .pb whose data lies outside its folder is refused."""
    tensor = TensorProto(name="x", data_type=F32, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret.bin")
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"1234")
    (folder / "x.pb").write_bytes(tensor.SerializeToString())
    with pytest.raises(FeedError, match="outside"):
        load_feed(one_input(), [str(folder / "x.pb")])


def test_absent_file_and_unknown_input(tmp_path: Path) -> None:
    """A path that is not there and a name that the model lacks are told apart."""
    with pytest.raises(FeedError, match="no input file"):
        load_feed(one_input(), [str(tmp_path / "none.npz")])
    with pytest.raises(FeedError, match="no input 'w'"):
        load_feed(one_input(), [f"w={tmp_path / 'none.npz'}"])


def test_missing_doubled_and_foreign_arrays(tmp_path: Path) -> None:
    """Each is refused with the names, and the hint says what the model wants."""
    np.savez(tmp_path / "x.npz", x=A)
    np.savez(tmp_path / "foreign.npz", image=A)
    with pytest.raises(FeedError, match="no value for input 'z'") as caught:
        load_feed(two_inputs(), [str(tmp_path / "x.npz")])
    assert "x (float32 [batch, 3]), z (float32 [batch, 3])" in caught.value.hint
    with pytest.raises(FeedError, match="'x' is given twice"):
        load_feed(two_inputs(), [str(tmp_path / "x.npz"), f"x={tmp_path / 'x.npz'}"])
    with pytest.raises(FeedError, match="'image', none of which"):
        load_feed(two_inputs(), [str(tmp_path / "foreign.npz")])
    with pytest.raises(FeedError, match="no value for input 'x', 'z'"):
        load_feed(two_inputs(), [])


@pytest.mark.parametrize(("dtype", "hint"), [("float64", "if what that loses"), ("float16", "loses nothing"),
                                             ("int64", "if what that loses"), ("uint8", "loses nothing"),
                                             ("bfloat16", "loses nothing")])
def test_other_dtypes_are_refused_with_the_conversion(dtype: str, hint: str) -> None:
    """Nothing is converted silently; the hint holds the call, and whether it is lossless."""
    with pytest.raises(FeedError, match=f"'x' is {dtype}; the model wants float32") as caught:
        check_feed(one_input(), {"x": A.astype(dtype)})
    assert "array.astype('float32')" in caught.value.hint
    assert hint in caught.value.hint


def test_same_dtype_in_other_clothes(tmp_path: Path) -> None:
    """Foreign byte order, bfloat16 as .npz stores it, and fixed-width strings mean what the model wants."""
    import ml_dtypes
    half = A.astype(ml_dtypes.bfloat16)
    words = np.array(["a", "bc"])
    cases = [(one_input(), A.astype(">f4"), A), (one_input(TensorProto.BFLOAT16), half, half),
             (one_input(TensorProto.STRING, [2]), words, words.astype(object))]
    for model, stored, wanted in cases:
        np.savez(tmp_path / "a.npz", x=stored)
        array = load_feed(model, [str(tmp_path / "a.npz")])[0]["x"]
        assert array.dtype == wanted.dtype
        assert array.dtype.isnative
        np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize(("x", "z", "words"), [
    ((3,), (2, 3), "'x' has shape [3]; the model wants rank 2"),
    ((2, 4), (2, 3), "'x' has shape [2, 4]; axis 1 must be 3"),
    ((2, 3), (5, 3), "'z' has shape [5, 3]; axis 0 must be 2 ('batch' is 2 elsewhere)")])
def test_wrong_shapes_are_refused(x: tuple[int, ...], z: tuple[int, ...], words: str) -> None:
    """Rank, fixed sizes and symbols shared between inputs are held against the declaration."""
    with pytest.raises(FeedError) as caught:
        check_feed(two_inputs(), {"x": np.zeros(x, np.float32), "z": np.zeros(z, np.float32)})
    assert caught.value.message == f"input {words}"
    assert "float32 [batch, 3]" in caught.value.hint


def test_unnamed_axes_are_independent_and_sums_are_understood() -> None:
    """Two unnamed axes may differ; an axis declared `past + 1` must be one more than the axis `past`."""
    node = [helper.make_node("Identity", ["x"], ["y"])]
    check_feed(model_of(node, [value("x", [None, "?", "?"])]), {"x": np.zeros((2, 4, 5), np.float32)})
    summed = model_of(node, [value("x", ["past + 1"]), value("p", ["past"])])
    check_feed(summed, {"x": np.zeros(5, np.float32), "p": np.zeros(4, np.float32)})
    with pytest.raises(FeedError, match="axis 0 must be 5"):
        check_feed(summed, {"x": np.zeros(4, np.float32), "p": np.zeros(4, np.float32)})


def test_extra_names_are_refused() -> None:
    """A feed made in code may not hold names that the model lacks."""
    with pytest.raises(FeedError, match="no input 'q'"):
        check_feed(one_input(), {"x": A, "q": A})


# Seeds


def test_bits_are_pinned() -> None:
    """The words behind all values are fixed for good: a change here changes every seeded report."""
    assert Bits(0, 0, "x").words(2).tolist() == GOLDEN_WORDS
    normal = Normal().draw(Bits(7, 1, "image"), (3, 1000))
    assert hashlib.sha256(normal.astype("<f4").tobytes()).hexdigest() == GOLDEN_NORMAL


GOLDEN_WORDS = [117069349530386072, 17509955312634641122]
GOLDEN_NORMAL = "adb61b95716290d749d93d9a7b82c7d86194dd39897a85b36c8535f51e2b8b7c"


def test_chunks_do_not_change_the_stream() -> None:
    """A large draw begins with the values of a small one."""
    large = Bits(0, 0, "x").normal((1 << 18) + 5)
    np.testing.assert_array_equal(large[:100], Bits(0, 0, "x").normal(100))
    np.testing.assert_array_equal(large[-5:], Bits(0, 0, "x").normal((1 << 18) + 5)[-5:])


def test_normal_is_normal() -> None:
    """Mean, variance, symmetry and tails of 400,000 values are those of a unit normal, within 5 standard errors."""
    x = Bits(3, 0, "x").normal(400_000).astype(np.float64)
    error = 1 / np.sqrt(len(x))
    assert abs(x.mean()) < 5 * error
    assert abs(x.var() - 1) < 5 * np.sqrt(2) * error
    assert abs((x**3).mean()) < 5 * np.sqrt(15) * error
    assert abs((np.abs(x) < 1).mean() - 0.6827) < 0.005  # Irwin–Hall of 12 lies 0.0015 under the normal's 0.6827
    assert len(np.unique(x)) > 0.9 * len(x)


@given(seed=st.integers(0, 2**70), count=st.integers(0, 50))
@settings(max_examples=30)
def test_normal_values_are_exact_multiples(seed: int, count: int) -> None:
    """Each value is a whole multiple of 2⁻²¹ that float32 holds exactly, so no rounding can differ anywhere."""
    steps = Bits(seed, 0, "x").normal(count).astype(np.float64) * 2**21
    np.testing.assert_array_equal(steps, np.round(steps))
    assert np.all(np.abs(steps) <= 2**24)


@given(span=st.integers(1, 2**40), seed=st.integers(0, 1000))
def test_below_stays_below(span: int, seed: int) -> None:
    """Integers lie in [0, span), for spans over 32 bits too."""
    drawn = Bits(seed, 0, "n").below(span, 20)
    assert drawn.min() >= 0
    assert drawn.max() < span


@given(shape=st.lists(st.integers(0, 9), max_size=4).map(tuple), seed=st.integers(0, 99))
def test_masks_are_runs_of_ones(shape: tuple[int, ...], seed: int) -> None:
    """Each row is ones over at least half, then zeros; the first is all ones."""
    mask = np.asarray(Mask().draw(Bits(seed, 0, "m"), shape))
    assert mask.shape == shape
    rows = mask.reshape(-1, shape[-1] if shape else 1) if mask.size else np.ones((1, 1))
    assert np.all(rows[0] == 1)
    assert np.all(np.diff(rows, axis=1) <= 0)
    assert np.all(2 * rows.sum(axis=1) >= rows.shape[1])


def test_lengths_and_positive_values_stay_in_range() -> None:
    """Lengths lie in [limit / 2, limit] and reach it; positive values in (0, 1]."""
    lengths = np.asarray(Lengths(9).draw(Bits(0, 0, "l"), (200,)))
    assert (lengths[0], lengths.min(), lengths.max()) == (9, 5, 9)
    positive = np.asarray(Positive().draw(Bits(0, 0, "p"), (200,)))
    assert positive.min() > 0
    assert positive.max() <= 1


def test_seed_sample_and_name_each_matter() -> None:
    """Same seed, same bits; another seed, sample or input, other bits."""
    model = two_inputs()
    feed, _ = seeded_feed(model, 0)
    again, _ = seeded_feed(model, 0)
    for name, array in feed.items():
        np.testing.assert_array_equal(array, again[name])
    assert not np.array_equal(feed["x"], feed["z"])
    assert not np.array_equal(feed["x"], seeded_feed(model, 1)[0]["x"])
    assert not np.array_equal(feed["x"], seeded_feed(model, 0, sample=1)[0]["x"])
    with pytest.raises(UsageError, match="negative"):
        seeded_feed(model, -1)


# Valid values


def text(model: Model, name: str, seed: int = 0) -> str:
    """What the source of a seeded input says, once ONNX Runtime has accepted the feed."""
    feed, sources = seeded_feed(model, seed)
    assert [s.name for s in sources] == list(feed) == [i.name for i in model.graph.inputs]
    check_feed(model, feed)
    run(model, feed)
    return next(s.text for s in sources if s.name == name)


TABLE = np.arange(5 * 4, dtype=np.float32).reshape(5, 4)


@pytest.mark.parametrize(("nodes", "weights", "expected"), [
    ([helper.make_node("Gather", ["t", "i"], ["y"])], {"t": TABLE}, "seeded index < 5"),
    ([helper.make_node("Gather", ["t", "i"], ["y"], axis=-1)], {"t": TABLE}, "seeded index < 4"),
    ([helper.make_node("GatherElements", ["t", "i"], ["y"], axis=1)], {"t": TABLE}, "seeded index < 4"),
    ([helper.make_node("GatherND", ["t", "i"], ["y"])], {"t": TABLE[:, :3]}, "seeded index < 3"),
    ([helper.make_node("Add", ["i", "two"], ["j"]), helper.make_node("Gather", ["t", "j"], ["y"])],
     {"t": TABLE, "two": np.array(2)}, "seeded index < 3"),
    ([helper.make_node("Sub", ["four", "i"], ["j"]), helper.make_node("Gather", ["t", "j"], ["y"])],
     {"t": TABLE, "four": np.array(4)}, "seeded index < 5"),
    ([helper.make_node("Cast", ["i"], ["c"], to=I32), helper.make_node("Transpose", ["c"], ["d"]),
      helper.make_node("Unsqueeze", ["d", "zero"], ["e"]), helper.make_node("Concat", ["e", "e"], ["f"], axis=0),
      helper.make_node("Gather", ["t", "f"], ["y"])], {"t": TABLE, "zero": np.array([0])}, "seeded index < 5"),
    ([helper.make_node("OneHot", ["i", "depth", "values"], ["y"])],
     {"depth": np.array([7]), "values": np.array([0, 1], np.float32)}, "seeded index < 7"),
    ([helper.make_node("Gather", ["t", "i"], ["y1"]), helper.make_node("Gather", ["small", "i"], ["y2"]),
      helper.make_node("Add", ["y1", "y2"], ["y"])], {"t": TABLE, "small": TABLE[:2]}, "seeded index < 2"),
    ([helper.make_node("Less", ["i", "zero"], ["neg"]), helper.make_node("Add", ["i", "five"], ["wrapped"]),
      helper.make_node("Where", ["neg", "wrapped", "i"], ["j"]), helper.make_node("Gather", ["t", "j"], ["y"])],
     {"t": TABLE, "zero": np.array(0), "five": np.array(5)}, "seeded index < 5"),
])
def test_indices_stay_inside_their_table(nodes: list[NodeProto], weights: dict[str, np.ndarray],
                                         expected: str) -> None:
    """An index is traced through casts, moves and shifts to every table that it indexes."""
    model = model_of(nodes, [value("i", [2, 2], I64)], weights)
    for seed in range(3):
        assert text(model, "i", seed) == expected


def test_index_into_a_computed_tensor() -> None:
    """The axis of an activation is known from shape inference, at the sizes that are fed."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Gather", ["h", "i"], ["y"], axis=1)]
    model = model_of(nodes, [value("x", [2, "n", 4]), value("i", [3], I64)], {"w": TABLE.T})
    feed, sources = seeded_feed(model, 0, {"x": (2, 6, 4)})
    assert sources[1].text == "seeded index < 6"
    run(model, feed)


def test_float_input_cast_to_an_index() -> None:
    """A float input that is cast and looked up holds whole numbers below the table's size."""
    model = model_of([helper.make_node("Cast", ["x"], ["i"], to=I64), helper.make_node("Gather", ["t", "i"], ["y"])],
                     [value("x", [50])], {"t": TABLE})
    assert text(model, "x") == "seeded index < 5"
    assert set(np.unique(seeded_feed(model, 0)[0]["x"])) == {0, 1, 2, 3, 4}


def test_index_inside_a_branch_and_a_loop() -> None:
    """Bodies of If and Loop are searched too, by capture and by argument."""
    branch = [helper.make_graph([helper.make_node("Gather", ["t", "i"], [f"o{k}"])], "b", [], [value(f"o{k}", None)])
              for k in range(2)]
    model = model_of([helper.make_node("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1])],
                     [value("c", [], BOOL), value("i", [4], I64)], {"t": TABLE})
    assert text(model, "i") == "seeded index < 5"
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["k"], ["k2"]),
         helper.make_node("Gather", ["t", "k"], ["row"])], "body",
        [value("n", [], I64), value("go", [], BOOL), value("k", [4], I64)],
        [value("on", [], BOOL), value("k2", [4], I64), value("row", [4, 4])])
    model = model_of([helper.make_node("Loop", ["m", "", "i"], ["last", "y"], body=body)],
                     [value("m", [], I64), value("i", [4], I64)], {"t": TABLE}, outputs=[value("y", None)])
    assert text(model, "i") == "seeded index < 5"
    assert text(model, "m") == "3, as Loop reads it"


def test_index_inside_a_local_function() -> None:
    """A model's own functions are looked into."""
    function = helper.make_function("own", "Lookup", ["table", "index"], ["found"],
                                    [helper.make_node("Gather", ["table", "index"], ["found"])],
                                    [helper.make_opsetid("", 17)])
    model = model_of([helper.make_node("Lookup", ["t", "i"], ["y"], domain="own")], [value("i", [4], I64)],
                     {"t": TABLE}, functions=[function])
    assert text(model, "i") == "seeded index < 5"


def bert() -> Model:
    """The inputs of a transformer encoder: ids, segments, positions and an additive mask, sequence length open."""
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["w"]),
        helper.make_node("Gather", ["segments", "token_type_ids"], ["s"]),
        helper.make_node("Gather", ["places", "position_ids"], ["p"]),
        helper.make_node("Add", ["w", "s"], ["ws"]),
        helper.make_node("Add", ["ws", "p"], ["e"]),
        helper.make_node("Unsqueeze", ["keep", "one"], ["k1"]),
        helper.make_node("Cast", ["k1"], ["k2"], to=F32),
        helper.make_node("Sub", ["1", "k2"], ["drop"]),
        helper.make_node("Mul", ["drop", "large"], ["bias"]),
        helper.make_node("Transpose", ["e"], ["et"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["e", "et"], ["scores"]),
        helper.make_node("Add", ["scores", "bias"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["y"]),
    ]
    weights = {"words": np.ones((30, 4), np.float32), "segments": np.ones((2, 4), np.float32),
               "places": np.ones((12, 4), np.float32), "one": np.array([1]), "1": np.array(1, np.float32),
               "large": np.array(-10000, np.float32)}
    ids = ("input_ids", "token_type_ids", "position_ids", "keep")
    return model_of(nodes, [value(n, ["batch", "sequence"], I64) for n in ids], weights)


def test_transformer_inputs() -> None:
    """Ids, segments, positions and an unnamed mask each get what they are for."""
    feed, sources = seeded_feed(bert(), 0, {"keep": (3, 10)})
    assert [s.text for s in sources] == ["seeded index < 30", "seeded segment 0 or 1", "positions 0, 1, 2, …",
                                         "seeded mask"]
    assert {v.shape for v in feed.values()} == {(3, 10)}
    assert feed["position_ids"].tolist() == [list(range(10))] * 3
    assert feed["token_type_ids"].max() == 1
    assert feed["keep"].sum(axis=1).min() >= 5
    run(bert(), feed)


def test_fused_embedding_inputs() -> None:
    """ONNX Runtime's fused embedding takes ids below its tables' sizes, and a mask."""
    inputs = ["ids", "kinds", "words", "places", "segments", "gamma", "beta", "keep"]
    node = helper.make_node("EmbedLayerNormalization", inputs, ["y", "counts"], domain="com.microsoft")
    weights = {"words": np.ones((30, 4), np.float32), "places": np.ones((12, 4), np.float32),
               "segments": np.ones((3, 4), np.float32), "gamma": np.ones(4, np.float32), "beta": np.ones(4, np.float32)}
    model = model_of([node], [value(n, ["batch", 8], I32) for n in ("ids", "kinds", "keep")], weights)
    assert text(model, "ids") == "seeded index < 30"
    assert text(model, "kinds") == "seeded index < 3"
    assert text(model, "keep") == "seeded mask"


def test_sizes_are_tried_until_the_model_runs() -> None:
    """A first guess of 16 exceeds a fused table of 12 places, so a smaller size is taken, and said."""
    nodes = [helper.make_node("Gather", ["t", "ids"], ["w"]), helper.make_node("Reshape", ["w", "s"], ["y"])]
    model = model_of(nodes, [value("ids", ["sequence"], I64)], {"t": TABLE, "s": np.array([2, 2, 2])})
    feed, sources = seeded_feed(model, 0)
    assert feed["ids"].shape == (2,)
    assert sources[0].text == "seeded index < 5, sequence=2 guessed"


def test_no_size_found_proposes_shape_and_quotes_the_refusal() -> None:
    """At most 12 sizes are tried; then the symbols, the first refusal and --shape are named."""
    tried: list[tuple[int, ...]] = []

    def refuse(feed: Feed) -> None:
        tried.append(feed["x"].shape)
        raise ModelError(f"no, not {feed['x'].shape}")

    model = one_input(dims=("batch", "time", "t2"))
    with pytest.raises(FeedError, match="sizes tried for t2, time") as caught:
        seeded_feed(model, 0, accepts=refuse)
    assert f"the first try said: no, not {tried[0]}" in caught.value.message
    assert "--shape x=" in caught.value.hint
    assert 2 <= len(tried) == len(set(tried)) <= 12
    assert {shape[0] for shape in tried} == {1}


def test_nothing_guessed_nothing_run() -> None:
    """With every size known the model is not run: the comparison will."""
    def never(feed: Feed) -> None:
        raise AssertionError(feed)

    feed, sources = seeded_feed(one_input(dims=("batch", "time")), 0, {"x": (2, 5)}, accepts=never)
    assert feed["x"].shape == (2, 5)
    assert sources == (InputSource("x", "seeded normal"),)
    assert seeded_feed(one_input(dims=("batch", 4)), 0, accepts=never)[0]["x"].shape == (1, 4)


@pytest.mark.parametrize(("shape", "words"), [((2, 5, 1), "rank 2"), ((2, 4), "axis 1 must be 3")])
def test_shapes_that_contradict_the_model(shape: tuple[int, ...], words: str) -> None:
    """A shape from the user is held against the declaration before anything runs."""
    with pytest.raises(FeedError, match=words):
        seeded_feed(two_inputs(), 0, {"x": shape})


@pytest.mark.parametrize("shape", [(10**6, 10**6), (10**30, 10**30)])
def test_a_shape_that_no_memory_holds_is_refused(shape: tuple[int, ...]) -> None:
    """At once, and with what it would take; nothing is drawn."""
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], [value("x", ["n", "m"])])
    with pytest.raises(FeedError, match=r"of shape 10+x10+ takes [\d,]+ GiB of memory, and there are ") as caught:
        seeded_feed(model, 0, {"x": shape})
    assert caught.value.hint == "Give a smaller --shape."


def test_shapes_of_unknown_inputs_and_conflicting_symbols() -> None:
    """A misspelt input and two sizes for one symbol are refused."""
    with pytest.raises(FeedError, match="no input 'q'"):
        seeded_feed(two_inputs(), 0, {"q": (1,)})
    with pytest.raises(FeedError, match="'batch' is 2 elsewhere"):
        seeded_feed(two_inputs(), 0, {"x": (2, 3), "z": (4, 3)})


def test_a_given_symbol_holds_everywhere() -> None:
    """A shape for one input sizes the same symbol in the others."""
    assert seeded_feed(two_inputs(), 0, {"z": (7, 3)})[0]["x"].shape == (7, 3)


@pytest.mark.parametrize(("node", "weight", "dims", "expected"), [
    (helper.make_node("Conv", ["x", "w"], ["y"], group=2), (4, 5, 1, 1), ["batch", "c", 8, 8], (1, 10, 8, 8)),
    (helper.make_node("MatMul", ["x", "w"], ["y"]), (37, 2), [None, None], (1, 37)),
    (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (2, 37), ["n", "features"], (1, 37)),
    (helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2), (1, 8, 7), [5, "batch_size", "in"], (5, 1, 7)),
])
def test_sizes_that_weights_decide(node: NodeProto, weight: tuple[int, ...], dims: Dims,
                                   expected: tuple[int, ...]) -> None:
    """The channels of a Conv, the rows of a MatMul or Gemm, the inputs of an LSTM need no guess."""
    weights = {"w": np.ones(weight, np.float32), "r": np.ones((1, 8, 2), np.float32)}
    model = model_of([node], [value("x", dims)], weights)
    feed, _ = seeded_feed(model, 0)
    assert feed["x"].shape == expected
    run(model, feed)


def test_unknown_rank_is_a_scalar_or_needs_a_shape() -> None:
    """Of an input of unknown rank a scalar is tried; where the model refuses it, --shape is asked for."""
    assert seeded_feed(one_input(dims=None), 0)[0]["x"].shape == ()
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x", None)], {"w": TABLE})
    with pytest.raises(FeedError, match="the rank of 'x'") as caught:
        seeded_feed(model, 0)
    assert "--shape x=" in caught.value.hint
    run(model, seeded_feed(model, 0, {"x": (2, 5)})[0])


def test_a_compared_constant_is_chosen() -> None:
    """A scalar that is compared with a sample rate is that rate; an array takes values of the constant."""
    nodes = [helper.make_node("Equal", ["sr", "rate"], ["is"]), helper.make_node("Cast", ["is"], ["y"], to=F32)]
    assert text(model_of(nodes, [value("sr", [], I64)], {"rate": np.array(16000)}), "sr") == "seeded choice of 16000"
    model = model_of(nodes, [value("sr", [40, 1], I64)], {"rate": np.array([[3, 5, 8]])})
    assert text(model, "sr") == "seeded choice of 3, 5, 8"
    assert set(np.unique(seeded_feed(model, 0)[0]["sr"])) == {3, 5, 8}


def test_comparison_with_zero_means_a_mask() -> None:
    """An integer array compared with 0 is a mask, not zeros everywhere."""
    nodes = [helper.make_node("Equal", ["m", "zero"], ["is"]), helper.make_node("Cast", ["is"], ["y"], to=F32)]
    assert text(model_of(nodes, [value("m", [2, 6], I64)], {"zero": np.array(0)}), "m") == "seeded mask"


@pytest.mark.parametrize(("name", "elem_type", "nodes", "expected"), [
    ("attention_mask", F32, [helper.make_node("Identity", ["attention_mask"], ["y"])], "seeded mask"),
    ("flag", BOOL, [helper.make_node("Not", ["flag"], ["n"]), helper.make_node("Cast", ["n"], ["y"], to=F32)],
     "seeded mask"),
    ("m", I32, [helper.make_node("Cast", ["m"], ["b"], to=BOOL), helper.make_node("Where", ["b", "1", "1"], ["y"])],
     "seeded mask"),
    ("pixels", U8, [helper.make_node("Cast", ["pixels"], ["y"], to=F32)], "seeded integer 0…255"),
    ("n", I64, [helper.make_node("Cast", ["n"], ["y"], to=F32)], "seeded integer 1…9"),
    ("v", F32, [helper.make_node("Reshape", ["v", "s"], ["r"]), helper.make_node("Log", ["r"], ["y"])],
     "seeded positive"),
    ("v", F16, [helper.make_node("Cast", ["v"], ["y"], to=F32)], "seeded normal"),
])
def test_values_by_type_and_reader(name: str, elem_type: int, nodes: list[NodeProto], expected: str) -> None:
    """What is left is told by dtype and reader; the outputs are finite."""
    model = model_of(nodes, [value(name, [4, 6], elem_type)], {"1": np.array(1, np.float32), "s": np.array([24])})
    assert text(model, name) == expected
    assert all(np.isfinite(v).all() for v in run(model, seeded_feed(model, 0)[0]))


def test_lengths_by_name_and_by_reader() -> None:
    """A length stays within the time axis of what it measures."""
    weights = {"w": np.ones((1, 8, 3), np.float32), "r": np.ones((1, 8, 2), np.float32)}
    lstm = model_of([helper.make_node("LSTM", ["x", "w", "r", "", "n"], ["y"], hidden_size=2)],
                    [value("x", [6, 4, 3]), value("n", [4], I32)], weights)
    assert text(lstm, "n") == "seeded length ≤ 6"
    nodes = [helper.make_node("Cast", ["audio_lengths"], ["f"], to=F32),
             helper.make_node("ReduceSum", ["audio"], ["s"], keepdims=0), helper.make_node("Add", ["f", "s"], ["y"])]
    named = model_of(nodes, [value("audio", ["batch", 80, "time"]), value("audio_lengths", ["batch"], I64)])
    feed, sources = seeded_feed(named, 0, {"audio": (2, 80, 31)})
    assert sources[1].text == "seeded length ≤ 31"
    assert feed["audio_lengths"][0] == 31


@pytest.mark.parametrize(("node", "name", "dims", "out"), [
    (helper.make_node("Reshape", ["x", "s"], ["y"]), "s", [3], (6, 1, 1)),
    (helper.make_node("Expand", ["x", "s"], ["y"]), "s", [3], (1, 2, 3)),
    (helper.make_node("Tile", ["x", "s"], ["y"]), "s", [2], (2, 3)),
    (helper.make_node("ConstantOfShape", ["s"], ["y"]), "s", [3], (2, 2, 2)),
    (helper.make_node("Pad", ["x", "s"], ["y"]), "s", [4], (2, 3)),
    (helper.make_node("Slice", ["x", "zero", "s"], ["y"]), "s", [1], (2, 3)),
])
def test_inputs_that_are_shapes(node: NodeProto, name: str, dims: list[int], out: tuple[int, ...]) -> None:
    """An input read as a shape, repeats, pads or ends takes a value that always works."""
    model = model_of([node], [value("x", [2, 3]), value(name, dims, I64)], {"zero": np.array([0])})
    feed, _ = seeded_feed(model, 0)
    assert run(model, feed)[0].shape == out


def test_strings_and_sequences_are_refused() -> None:
    """Inputs that no seed can make are refused with the way out."""
    with pytest.raises(FeedError, match="'x' is string") as caught:
        seeded_feed(one_input(TensorProto.STRING), 0)
    assert "--input x=FILE" in caught.value.hint
    sequence = helper.make_tensor_sequence_value_info("q", F32, None)
    model = model_of([helper.make_node("SequenceLength", ["q"], ["y"])], [sequence], outputs=[value("y", [], I64)])
    for call in (lambda: seeded_feed(model, 0), lambda: check_feed(model, {"q": A})):
        with pytest.raises(FeedError, match="'q' is a sequence, map or optional"):
            call()


def test_fp16_values_are_the_rounded_fp32_ones() -> None:
    """A half input takes the same numbers, rounded once."""
    single, half = (seeded_feed(one_input(t), 5)[0]["x"] for t in (F32, F16))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, single.astype(np.float16))


# Real models


@pytest.mark.models
def test_real_models_take_seeded_and_real_inputs(real_model: Any) -> None:
    """ONNX Runtime accepts what is made from a seed, gives finite numbers, and the real inputs load as they are."""
    model = Model.load(real_model.path)
    feed, sources = seeded_feed(model, 0)
    assert all(np.isfinite(v).all() for v in run(model, feed) if v.dtype.kind == "f")
    assert {s.name for s in sources} == set(feed)
    loaded, _ = load_feed(model, [str(real_model.inputs_path)])
    with np.load(real_model.inputs_path) as archive:
        for name, array in loaded.items():
            np.testing.assert_array_equal(array, archive[name])
