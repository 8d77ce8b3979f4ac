"""Calibration samples: read from files a sample at a time, and refused by name where they do not fit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from parity.errors import FeedError
from parity.graph.model import Model
from parity.precision.calibration import Calibration


def model_of(**inputs: tuple[int | str, ...]) -> Model:
    """A model of FP32 inputs of these shapes, each passed through."""
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()]
    nodes = [helper.make_node("Identity", [n], [f"{n}_out"]) for n in inputs]
    outputs = [helper.make_tensor_value_info(f"{n}_out", TensorProto.FLOAT, None) for n in inputs]
    graph = helper.make_graph(nodes, "g", infos, outputs)
    return Model.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def ramp(*shape: int) -> np.ndarray:
    """The numbers from 0 up, as FP32."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


SAVERS: dict[str, Callable[..., None]] = {"plain": np.savez, "compressed": np.savez_compressed}


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_a_long_batch_is_cut_into_samples_of_one(tmp_path: Path, save: Callable[..., None]) -> None:
    """Inputs with a batch of 1 get one row each; those that fit as they are come with every sample."""
    model = model_of(x=(1, 3), rate=())
    save(tmp_path / "c.npz", x=ramp(4, 3), rate=np.float32(7), labels=np.arange(4))
    calibration = Calibration.load(model, tmp_path / "c.npz")
    feeds = list(calibration)
    assert len(calibration) == len(feeds) == 4
    assert np.array_equal(np.concatenate([f["x"] for f in feeds]), ramp(4, 3))
    assert all(set(f) == {"x", "rate"} and f["rate"] == 7 for f in feeds)
    assert [f["x"].tolist() for f in calibration] == [f["x"].tolist() for f in feeds], "the second pass differs"


@given(rows=st.integers(1, 40), width=st.integers(0, 3), fortran=st.booleans(), big=st.booleans(),
       symbolic=st.booleans())
def test_cutting_keeps_every_row(rows: int, width: int, fortran: bool, big: bool, symbolic: bool) -> None:
    """Whatever the layout and byte order of the file, the samples put together are the array."""
    array = ramp(rows, width).astype(">f4" if big else "<f4", order="F" if fortran else "C")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.npy"
        np.save(path, array)
        feeds = list(Calibration.load(model_of(x=("batch" if symbolic else 1, width)), path))
    assert np.array_equal(np.concatenate([f["x"] for f in feeds]), array)
    assert all(f["x"].dtype == np.float32 and f["x"].dtype.isnative for f in feeds)
    assert all(len(f["x"]) <= (16 if symbolic else 1) for f in feeds)


@pytest.mark.parametrize("shape", [("time", 2), ("n", "n")], ids=["not called a batch", "symbol used twice"])
def test_an_axis_that_may_not_be_a_batch_is_not_cut(tmp_path: Path, shape: tuple[int | str, ...]) -> None:
    """A sequence cut in pieces would give other ranges, so only an axis that is surely a batch is cut."""
    array = ramp(32, 32 if shape[1] == "n" else 2)
    np.save(tmp_path / "c.npy", array)
    (feed,) = Calibration.load(model_of(x=shape), tmp_path / "c.npy")
    assert np.array_equal(feed["x"], array)


def test_a_folder_holds_one_sample_in_each_file(tmp_path: Path) -> None:
    """Files are taken in the order of their names, other kinds of files are left alone."""
    for i in (2, 0, 1):
        np.savez(tmp_path / f"{i}.npz", x=np.full((1, 2), i, np.float32))
    (tmp_path / "README.txt").write_text("not a sample")
    calibration = Calibration.load(model_of(x=(1, 2)), tmp_path)
    assert [f["x"][0, 0] for f in calibration] == [0, 1, 2]
    assert calibration.source == f"folder {tmp_path.name}, 3 samples"


@pytest.mark.parametrize(("arrays", "says"), [
    ({"y": ramp(1, 3)}, "no array for input 'x', 'z'; it holds 'y'"),
    ({"x": ramp(1, 4), "z": ramp(1, 3)}, "'x'"),
    ({"x": ramp(1, 3).astype(np.float64), "z": ramp(1, 3)}, "input 'x' is float64"),
    ({"x": ramp(3, 3), "z": ramp(4, 3)}, "different numbers of rows ('x' 3, 'z' 4)"),
    ({"x": np.array([[object()]]), "z": ramp(1, 3)}, "pickled"),
], ids=["name", "shape", "dtype", "rows", "pickle"])
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    """The error names the file and the input before anything is run."""
    np.savez(tmp_path / "bad.npz", **arrays)  # type: ignore[arg-type] # numpy's stub takes allow_pickle for any name
    with pytest.raises(FeedError) as caught:
        Calibration.load(model_of(x=(1, 3), z=(1, 3)), tmp_path)
    assert says in str(caught.value)
    assert "bad.npz" in str(caught.value)


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    """A folder without samples, a missing file, a file of noise and a truncated one each get their line."""
    model = model_of(x=(1, 3))
    with pytest.raises(FeedError, match=r"holds no \.npy or \.npz"):
        Calibration.load(model, tmp_path)
    with pytest.raises(FeedError, match="there is no input file"):
        Calibration.load(model, tmp_path / "absent.npz")
    (tmp_path / "noise.npz").write_bytes(b"noise")
    with pytest.raises(FeedError, match=r"noise\.npz"):
        Calibration.load(model, tmp_path / "noise.npz")
    np.save(tmp_path / "cut.npy", ramp(4, 3))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-8])
    with pytest.raises(FeedError, match=r"cut\.npy is truncated"):
        list(Calibration.load(model, tmp_path / "cut.npy"))


def test_feeds_in_memory_are_checked_and_may_be_indicative() -> None:
    """What was made from a seed says so; a wrong feed, or none, is refused."""
    model = model_of(x=(1, 3))
    calibration = Calibration.of_feeds(model, [{"x": ramp(1, 3)}], indicative=True)
    assert calibration.indicative
    assert calibration.source == "1 sample made from a seed"
    assert len(list(calibration)) == len(list(calibration)) == 1
    with pytest.raises(FeedError, match="'x'"):
        Calibration.of_feeds(model, [{"x": ramp(2, 3)}])
    with pytest.raises(FeedError, match="no sample"):
        Calibration.of_feeds(model, [])
