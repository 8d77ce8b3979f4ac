"""One comparison as a test asks for it: paths, names, and the command that shows it again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.pytest_plugin.case import Case, command, located, matches, name_of, slug


def test_paths_are_taken_from_the_folder_and_targets_are_left() -> None:
    """What is absolute stays."""
    written = Case("m.onnx", ["onnxruntime", "sub/other.onnx", "/abs/dump.npz"], "in.npz", labels="l.npy")
    case = located(written, Path("/p"))
    assert (case.model, case.inputs, case.labels) == (Path("/p/m.onnx"), Path("/p/in.npz"), Path("/p/l.npy"))
    assert list(case.candidates) == ["onnxruntime", Path("/p/sub/other.onnx"), Path("/abs/dump.npz")]
    assert located(Case("m.onnx", inputs="x=sub/in.npy"), Path("/p")).inputs == "x=/p/sub/in.npy"


@pytest.mark.parametrize(("target", "wanted", "expected"), [
    ("onnxruntime:int8", ["onnxruntime"], True), ("onnxruntime:int8", ["onnxruntime:int8"], True),
    ("onnxruntime:int8", ["onnxruntime:fp16"], False), ("tensorrt-rtx:fp16", ["tensorrt"], False),
    ("other.onnx on tensorrt@cuda:fp16", ["tensorrt"], True), ("onnxruntime", [], False),
    ("onnxruntime@cuda", ["onnxruntime@cuda"], True)])
def test_a_target_is_meant_as_a_whole_or_by_its_backend(target: str, wanted: list[str], expected: bool) -> None:
    """A precision that was not named is not meant."""
    assert matches(target, wanted) is expected


def test_the_command_says_all_that_the_comparison_was_asked_for(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths below the folder are short, those from where the test stands are as it meant them, defaults left out."""
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    case = Case(tmp_path / "m.onnx", ["onnxruntime:int8", tmp_path / "o.onnx"], tmp_path / "in put.npz",
                tolerance={"rel_l2": 1e-3}, allow=["tensorrt"], judges=["top1"], labels="l.npy", calibration="c",
                strict=True, threads=2)
    assert command(case, "t.py::test", tmp_path) == (
        "parity compare m.onnx o.onnx -c onnxruntime:int8 --input 'in put.npz' --labels sub/l.npy --calibration sub/c "
        "--tolerance rel_l2=0.001 --judge top1 --threads 2 --strict")


def test_values_in_memory_are_shown_again_by_the_test(tmp_path: Path) -> None:
    """No command line can name them."""
    assert command(Case("m.onnx", inputs={"x": 1}), "t.py::test[a b]", tmp_path) == "pytest 't.py::test[a b]'"


def test_candidates_have_names() -> None:
    """A target is its own, a file is its file's, a value is its place."""
    assert [name_of(c, i) for i, c in enumerate(["onnxruntime:int8", "a/b.onnx", object()])] == [
        "onnxruntime:int8", "b.onnx", "candidate2"]


@given(st.text(min_size=1), st.text(min_size=1))
def test_names_of_tests_become_names_of_files(one: str, other: str) -> None:
    """Whatever a test is called, its file is one file in the folder; what had to go is told apart."""
    name = slug(one)
    assert "/" not in name
    assert "\\" not in name
    assert not name.startswith(".")
    assert 0 < len(name.encode()) < 200
    assert name.isprintable()
    assert (slug(other).lower() == name.lower()) is (one == other)


@pytest.mark.parametrize("names", [
    ("test_col[x:y]", "test_col[x-y]"), ("A::b", "A[b]", "A-b", "A.b"), ("t[a]", "t[a", "t-a", "t[a]]"),
    ("t", "t[]", "t-"), ("m[onnxruntime:int8]", "m[onnxruntime-int8]"), ("t[cnn]", "t[CNN]", "t[Cnn]"),
    ("TestNet::test_it", "TestNET::test_it", "testnet::test_it")])
def test_names_that_differ_only_in_signs_or_case_are_told_apart(names: tuple[str, ...]) -> None:
    """Each has reports and baselines of its own, on a file system that knows no case, too."""
    assert len({slug(name).lower() for name in names}) == len(names)


def test_an_ordinary_name_can_be_read() -> None:
    """No hash where none is needed, and the words before it where one is."""
    assert [slug(n) for n in ("test_it", "test_it[a-0.5]")] == ["test_it", "test_it-a-0.5"]
    assert slug("TestA::test_it").startswith("TestA.test_it-")
