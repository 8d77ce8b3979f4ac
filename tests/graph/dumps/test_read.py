"""Tensors in other tools' files. The files in polygraphy/ were written by Polygraphy 0.53.6, from `real_graph`."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto

from parity.errors import FeedError
from parity.graph.dumps.dump import Dump, declared_dtypes, fitted, split_runner
from parity.graph.dumps.read import holds_tensors, load_arrays, read_dump
from parity.graph.feeds import load_feed
from parity.graph.model import Model
from tests.builders import declared, node, proto_of

REAL = Path(__file__).parent / "polygraphy"
A = np.arange(6, dtype=np.float32).reshape(2, 3) / 7


def real_graph() -> Model:
    """What Polygraphy ran: in:0 → Relu → Cast → h, and Add → y."""
    return Model(proto_of(
        [node("Relu", ["in:0"], ["/a/Relu_output_0"]),
         node("Cast", ["/a/Relu_output_0"], ["h"], to=TensorProto.FLOAT16),
         node("Add", ["/a/Relu_output_0"] * 2, ["y"])],
        [declared("in:0")], [declared("y"), declared("h", kind=TensorProto.FLOAT16)]))


# Polygraphy


def test_polygraphys_inputs_and_results_belong_together() -> None:
    """The first saved input, through the graph by hand, is the first saved result; more iterations are mentioned."""
    feed, sources = load_feed(real_graph(), [str(REAL / "inputs.json")])
    dump = read_dump(REAL / "results.json")
    np.testing.assert_array_equal(dump.arrays["y"], 2 * np.maximum(feed["in:0"], 0))
    np.testing.assert_array_equal(dump.arrays["h"], np.maximum(feed["in:0"], 0).astype(np.float16))
    assert dump.notes == ("the first of 2 iterations",)
    assert sources[0].text == "file inputs.json, the first of 2 iterations"


def test_a_runner_is_named_by_its_beginning() -> None:
    """One of two runners must be chosen; the hint can be typed, and so can the beginning of a name."""
    path = REAL / "two_runners.json"
    with pytest.raises(FeedError, match=r"results of 2 runners: 'onnxrt-runner-N0.*'onnxrt-runner-N1") as caught:
        read_dump(path)
    shown = caught.value.hint.removeprefix("Say which, as in ").removesuffix(".")
    for choice in (shown, f"{path}:onnxrt-runner-N1"):
        assert set(read_dump(Path(choice)).arrays) == {"/a/Relu_output_0", "h", "y"}
    for unclear in ("onnxrt", "trt"):
        with pytest.raises(FeedError, match=f"begin with '{unclear}'"):
            read_dump(Path(f"{path}:{unclear}"))


@pytest.mark.parametrize("name", ["inputs.json", "a.npz"])
def test_a_runner_of_a_file_without_runners(tmp_path: Path, name: str) -> None:
    """Only saved results have runners."""
    np.savez(tmp_path / "a.npz", a=A)
    shutil.copy(REAL / "inputs.json", tmp_path)
    with pytest.raises(FeedError, match="holds no runners"):
        read_dump(Path(f"{tmp_path / name}:trt"))


def test_a_folder_of_iterations(tmp_path: Path) -> None:
    """Polygraphy numbers the files of a folder; the first is read."""
    for number, name in enumerate(("results.json", "two_runners.json")):
        shutil.copy(REAL / name, tmp_path / f"{number:010}.json")
    dump = read_dump(tmp_path)
    np.testing.assert_array_equal(dump.arrays["y"], read_dump(REAL / "results.json").arrays["y"])
    assert "the first of 2 iterations" in dump.notes


def test_tensors_saved_by_torch(tmp_path: Path) -> None:
    """Polygraphy saves torch's tensors as torch does, which keeps BF16."""
    file = io.BytesIO()
    torch.save(torch.tensor([1.5, -2.0], dtype=torch.bfloat16), file)
    value = {"tensor": base64.b64encode(file.getvalue()).decode(), "polygraphy_class": "Tensor"}
    (tmp_path / "a.json").write_text(json.dumps([{"x": value}]))
    array = load_arrays(tmp_path / "a.json")["x"]
    assert array.dtype == ml_dtypes.bfloat16
    assert array.astype(np.float32).tolist() == [1.5, -2.0]


def encoded(array: np.ndarray, *, pickles: bool = False) -> dict[str, str]:
    """An array as Polygraphy encodes it."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickles)
    return {"array": base64.b64encode(file.getvalue()).decode(), "polygraphy_class": "ndarray"}


@pytest.mark.parametrize(("document", "words"), [
    ({}, "neither Polygraphy"), ([], "neither Polygraphy"), (3, "neither Polygraphy"), ({"version": 1}, "neither"),
    ({"lst": 3}, "no runners"), ({"lst": []}, "0 runners: none"), ({"lst": [["a", []]]}, "no tensors"),
    ({"lst": [["a", [{"outputs": {"y": 3}}]]]}, "'y' is not in the form"),
    ([{"x": {"array": "%%"}}], "'x' cannot be decoded"), ([{"x": {"array": "AAAA"}}], "'x' cannot be decoded"),
    ([{"x": encoded(np.array([{}], object), pickles=True)}], "'x' cannot be decoded"),
    ([{"name": "y", "dimensions": "2x3", "values": [1, 2]}], "'y' has 2 values for dimensions 2x3"),
    ([{"name": "y", "dimensions": "-1", "values": []}], "dimensions -1"),
    ([{"name": "y", "dimensions": "1", "values": ["1"]}], "'y' has a value that is not a number"),
    ([{"name": "y", "dimensions": "1"}], "without name, dimensions and values")])
def test_json_of_other_forms_is_refused(tmp_path: Path, document: object, words: str) -> None:
    """The message names the file and the tensor; the hint says what to type."""
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(FeedError, match=words) as caught:
        read_dump(tmp_path / "a.json")
    assert "a.json" in caught.value.message
    assert "`" in caught.value.hint or "gain" in caught.value.hint


# trtexec


@pytest.mark.parametrize("dimensions", ['"2x3"', '"(2, 3)"', "[2, 3]"])
def test_exported_outputs(tmp_path: Path, dimensions: str) -> None:
    """Text without types takes the declared ones; C++ prints nan and inf; six digits are mentioned."""
    (tmp_path / "y.json").write_text(
        f'[\n  {{ "name" : "/y"\n  , "dimensions" : {dimensions}\n'
        '  , "values" : [ 0, -0.5, nan, -nan, inf, -inf ]\n  }\n'
        ', { "name" : "i"\n  , "dimensions" : ""\n  , "values" : [ 7 ]\n  }\n'
        ', { "name" : "f"\n  , "dimensions" : "2"\n  , "values" : [ 7, 1e+10 ]\n  }\n]\n')
    dump = read_dump(tmp_path / "y.json")
    found = fitted(dump, {"/y": np.dtype("f4"), "i": np.dtype("?"), "f": np.dtype("f8")}, tmp_path)
    np.testing.assert_array_equal(
        found["/y"], np.array([[0, -0.5, np.nan], [np.nan, np.inf, -np.inf]], np.float32), strict=True)
    assert (found["i"].dtype, found["i"].shape) == (np.dtype(np.int64), ())  # 7 is no truth value
    assert found["f"].dtype == np.float64
    assert "six digits" in dump.notes[0]


@given(hnp.arrays(st.sampled_from(["i1", "u1", "i4", "i8", "?"]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)))
def test_exported_integers_are_exact(array: np.ndarray) -> None:
    """Integers and truth values come back bit for bit, and nothing is said of digits."""
    from parity.graph.dumps.trtexec import read_outputs

    dims = "x".join(map(str, array.shape))
    dump = read_outputs([{"name": "y", "dimensions": dims, "values": [int(v) for v in array.ravel()]}], Path("y.json"))
    np.testing.assert_array_equal(fitted(dump, {"y": array.dtype}, Path())["y"], array, strict=True)
    assert dump.notes == ()


def files(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """A folder of .npy."""
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_debug_tensors_of_several_inferences(tmp_path: Path) -> None:
    """Its files are numbered, odd characters replaced, BF16 widened: the names are found again."""
    folder = files(tmp_path, {"0002__a_Relu_output_0": A + 2, "0000__a_Relu_output_0": A, "0001_h_to_float": A + 1})
    dump = read_dump(folder)
    found = fitted(dump, declared_dtypes(real_graph()), folder)
    assert set(found) == {"/a/Relu_output_0", "h"}
    np.testing.assert_array_equal(found["/a/Relu_output_0"], A)
    assert dump.notes == ("the first inference of several",)


def test_an_elided_name(tmp_path: Path) -> None:
    """Of a long file name, trtexec keeps 73 characters of each end."""
    long = "/block/" + "x" * 200 + "/out:0"
    whole = f"0000_{long}.npy".replace("/", "_").replace(":", "_")
    folder = files(tmp_path, {(whole[:73] + "..." + whole[-73:]).removesuffix(".npy"): A})
    assert set(fitted(read_dump(folder), {long: None, "/block/other": None}, folder)) == {long}


def test_the_summary_lists_the_names(tmp_path: Path) -> None:
    """With tensor_summary.json two tensors that differ in what a file name cannot hold are told apart."""
    folder = files(tmp_path, {"0000_a_b": A, "0001_a_b": A + 1})
    entries = [{"name": n, "files": {"numpy": f"{i:04}_a_b.npy"}} for i, n in enumerate(("a/b", "a:b"))]
    (folder / "tensor_summary.json").write_text(json.dumps({"tensors": entries}))
    found = fitted(read_dump(folder), {"a/b": None, "a:b": None}, folder)
    np.testing.assert_array_equal(found["a/b"], A)
    np.testing.assert_array_equal(found["a:b"], A + 1)


def test_raw_bindings_beside_debug_tensors(tmp_path: Path) -> None:
    """--dumpRawBindingsToFile says shape and type in the name; a wrong length is refused."""
    folder = files(tmp_path, {"0000__a_Relu_output_0": A})
    A.tofile(folder / "y.output.2.3.fp32.raw")
    A.astype(ml_dtypes.bfloat16).tofile(folder / "s.output.6.bf16.raw")
    (folder / "0001_h.raw").write_bytes(b"1234")  # of --saveAllDebugTensors=raw, which does not say its shape
    found = read_dump(folder).arrays
    np.testing.assert_array_equal(found["y"], A, strict=True)
    assert (found["s"].dtype, set(found)) == (ml_dtypes.bfloat16, {"y", "s", "_a_Relu_output_0"})
    (folder / "y.output.2.3.fp32.raw").write_bytes(b"1234")
    with pytest.raises(FeedError, match=r"y\.output.* is 4 bytes, and its name says 24"):
        read_dump(folder)


# Names


def test_names_that_could_be_two_are_refused() -> None:
    """A file that fits two tensors is an error that names both, and so are two files for one."""
    known = {"a/b": None, "a_b": None, "c:0": None}
    with pytest.raises(FeedError, match="'a_b' may be tensor 'a/b' or tensor 'a_b'") as caught:
        fitted(Dump({"a_b": A}, spelled=False), known, Path("d"))
    assert ".npz" in caught.value.hint
    with pytest.raises(FeedError, match="both 'c_0' and 'c-0' may be tensor 'c:0'"):
        fitted(Dump({"c_0": A, "c-0": A}, spelled=False), known, Path("d"))
    assert set(fitted(Dump({"a_b": A, "c_0": A}), known, Path("d"))) == {"a_b", "c:0"}  # an .npz spells names


@given(st.sets(st.text("ab/:._-0", min_size=1, max_size=4), min_size=1))
def test_own_names_are_kept(names: set[str]) -> None:
    """Whatever the names, a file that spells them all is understood as it is."""
    arrays = {n: np.full(1, i) for i, n in enumerate(sorted(names))}
    for spelled in (True, False):
        found = fitted(Dump(arrays, spelled=spelled), dict.fromkeys(names), Path())
        assert {n: int(a[0]) for n, a in found.items()} == {n: int(a[0]) for n, a in arrays.items()}


def test_split_runner_needs_a_file(tmp_path: Path) -> None:
    """A colon in the name of a file that is there separates nothing."""
    odd = tmp_path / "a.json:b.json"
    odd.write_text("[]")
    assert split_runner(odd) == (odd, "")
    assert split_runner(Path(f"{odd}:run/1:2")) == (odd, "run/1:2")
    assert split_runner(tmp_path / "none.json:r") == (tmp_path / "none.json:r", "")


# Safetensors


def safetensors(path: Path, arrays: Mapping[str, tuple[str, np.ndarray]]) -> Path:
    """Write the format by its specification."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (kind, array) in arrays.items():
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_safetensors_keep_every_type(tmp_path: Path) -> None:
    """BF16 and FP8 too, at any offset, and scalars and empty tensors."""
    kinds = {"BOOL": "?", "I8": "i1", "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F32": "f4",
             "F8_E5M2": ml_dtypes.float8_e5m2, "I64": "i8", "F16": "f2", "F64": "f8"}
    arrays = {k: (k, np.arange(3).astype(d)) for k, d in kinds.items()}
    arrays |= {"scalar": ("F32", np.array(7, np.float32)), "empty": ("I64", np.zeros((0, 4), np.int64))}
    found = load_arrays(safetensors(tmp_path / "a.safetensors", arrays))
    assert set(found) == set(arrays)
    for name, (_, array) in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("cut", range(0, 90, 6))
def test_damaged_safetensors_are_refused(tmp_path: Path, cut: int) -> None:
    """Cut off anywhere, the file is refused by name, never read in part."""
    path = safetensors(tmp_path / "a.safetensors", {"x": ("F32", A)})
    assert len(path.read_bytes()) > 90
    path.write_bytes(path.read_bytes()[:-cut - 1])
    with pytest.raises(FeedError, match=r"a\.safetensors"):
        load_arrays(path)


@pytest.mark.parametrize(("entry", "words"), [
    ({"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}, "'x' is F4"), (3, "'x' has no dtype"),
    ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "needs 8 bytes"),
    ({"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}, "bytes -4 to 0"),
    ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, r"shape \[-1\]")])
def test_impossible_entries_are_refused(tmp_path: Path, entry: object, words: str) -> None:
    """A type, shape or place that cannot be is told with the tensor's name."""
    text = json.dumps({"x": entry}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"1234")
    with pytest.raises(FeedError, match=words):
        load_arrays(tmp_path / "a.safetensors")


# As inputs


def test_inputs_from_a_folder_and_from_raw_values(tmp_path: Path) -> None:
    """A file name that cannot spell `in:0` still feeds it; raw values take the declared type and shape."""
    A.tofile(tmp_path / "x.bin")
    for source in (files(tmp_path / "d", {"in_0": A}), f"in:0={tmp_path / 'x.bin'}"):
        feed, _ = load_feed(real_graph(), [str(source)])
        np.testing.assert_array_equal(feed["in:0"], A, strict=True)
    (tmp_path / "x.bin").write_bytes(b"1234")
    with pytest.raises(FeedError, match=r"x\.bin is 4 bytes; input 'in:0' is float32 \[2, 3\], 24 bytes"):
        load_feed(real_graph(), [f"in:0={tmp_path / 'x.bin'}"])
    with pytest.raises(FeedError, match="does not say which input") as caught:
        load_feed(real_graph(), [str(tmp_path / "x.bin")])
    assert "NAME=" in caught.value.hint


def test_raw_values_decide_one_open_size(tmp_path: Path) -> None:
    """A batch follows from the file's length; two open sizes do not."""
    A.tofile(tmp_path / "x.bin")
    one, two = (Model(proto_of([node("Relu", ["x"], ["y"])], [declared("x", shape)]))
                for shape in (("n", 3), ("n", "m")))
    assert load_feed(one, [f"x={tmp_path / 'x.bin'}"])[0]["x"].shape == (2, 3)
    with pytest.raises(FeedError, match="24 bytes") as caught:
        load_feed(two, [f"x={tmp_path / 'x.bin'}"])
    assert ".npy" in caught.value.hint


def test_fp8_of_another_kind_is_not_taken_for_the_wanted(tmp_path: Path) -> None:
    """Two types of one width are two types: their bits mean other numbers."""
    model = Model(proto_of([node("Identity", ["x"], ["y"])], [declared("x", (3,), TensorProto.FLOAT8E5M2)], opset=19,
                           ir=9))
    path = safetensors(tmp_path / "a.safetensors", {"x": ("F8_E4M3", np.ones(3, ml_dtypes.float8_e4m3fn))})
    with pytest.raises(FeedError, match="'x' is float8_e4m3fn; the model wants float8_e5m2"):
        load_feed(model, [str(path)])


def test_what_can_hold_tensors(tmp_path: Path) -> None:
    """By ending, or a folder; a runner after the name does not matter."""
    assert all(map(holds_tensors, [Path("a.npz"), Path("a.safetensors"), tmp_path, REAL / "results.json:trt"]))
    assert not any(map(holds_tensors, [Path("a.txt"), Path("a.onnx"), Path("a")]))


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_text_is_not_taken_for_a_pickle(tmp_path: Path, name: str) -> None:
    """What is no file of numpy's is said to be that; numpy would speak of pickles."""
    (tmp_path / name).write_text("0.1, 0.2, 0.3")
    with pytest.raises(FeedError, match="cannot be read as") as caught:
        read_dump(tmp_path / name)
    assert "pickle" not in str(caught.value)
