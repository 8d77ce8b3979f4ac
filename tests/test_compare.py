"""The pipeline on models of every make: no alarm where the runtimes agree, the right tensor where they do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from parity.backends.base import Capture, RunOptions
from parity.backends.ort import InProcess, OrtSession
from parity.compare import Options, compare, compare_files
from parity.contenders import Contender, Request
from parity.errors import FeedError, ModelError, ParityError
from parity.graph.executor import Executor
from parity.graph.feeds import load_feed, seeded_feed
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from parity.graph.survey import survey
from parity.report.record import Candidate, Report
from parity.targets import Target
from tests.builders import CHAIN, X, Y, chain, declared, node, proto_of, saved
from tests.models import RealModel
from tests.odd_models import ODD, branch, kinds

F32 = np.float32
ORT = Target("onnxruntime")


def run(proto: ModelProto, other: ModelProto | None = None, target: Target = ORT, **options: Any) -> Report:
    """A model on `target` against itself, or against another one, on seeded inputs."""
    model = Model.from_proto(proto)
    feed, _ = seeded_feed(model, 0)
    contender = Contender(target, None if other is None else Model.from_proto(other))
    return compare(model, [contender], [feed], [], options=Options(RunOptions(threads=1), **options))


def names(candidate: Candidate) -> list[str]:
    """The tensors that were compared, in order."""
    return [t.tensor for t in candidate.tensors]


@pytest.mark.parametrize("optimization", ["all", "off"])
@pytest.mark.parametrize("name", ODD)
def test_no_alarm_on_a_sound_model(name: str, optimization: str) -> None:
    """Models of every make are at parity with no bad layer, however ONNX Runtime optimises them."""
    model = Model.from_proto(kinds(name))
    feed, _ = seeded_feed(model, 0)
    report = compare(model, [Contender(ORT)], [feed], [], options=Options(RunOptions(optimization, threads=1)))
    candidate = report.candidates[0]
    assert (candidate.status, candidate.reason) == ("ok", "")
    assert (candidate.verdict, candidate.first_bad) == ("parity", None)
    assert report.verdict == "parity"
    assert Report.from_json(report.to_json()).to_json() == report.to_json()


@pytest.mark.parametrize("name", ODD)
def test_a_model_is_at_parity_with_itself(name: str) -> None:
    """A candidate file that is the very model agrees bit for bit, all its tensors matched by name."""
    report = run(kinds(name), kinds(name), Target("pytorch"))
    candidate = report.candidates[0]
    assert (candidate.status, candidate.verdict, candidate.first_bad) == ("ok", "parity", None)
    assert len(candidate.tensors) == report.model.tensors or "sequence" in name
    for row in (*candidate.outputs, *candidate.tensors):
        assert row.accumulated is not None
        assert row.accumulated.identical


@pytest.mark.parametrize("name", ["Dropout in training", "random numbers"])
def test_no_operator_is_blamed_for_drawing_other_numbers(name: str) -> None:
    """Runtimes draw random numbers each in its own way: that is no fault of an operator."""
    candidate = run(kinds(name)).candidates[0]
    assert candidate.status == "ok"
    assert all(t.passed for t in candidate.tensors)


@pytest.mark.parametrize(("name", "expected"), [
    ("an If, then", ["s", "c", "t1", "t2", "i", "y"]), ("an If, else and nested", ["s", "c", "n1", "n", "i", "y"]),
    ("a Loop", ["l", "scanned", "y", "e"]), ("a Scan", ["last", "rows", "y"]), ("sequences", ["a", "y"]),
    ("BF16 inside", ["y"]), ("INT4 inside", ["y"]), ("Dropout's mask", ["a", "y"]),
    ("a result nobody reads", ["y"]), ("Q/DQ", ["q", "d", "a", "q2", "y"]), ("no node", []),
])
def test_which_tensors_are_compared(name: str, expected: list[str]) -> None:
    """Of an If the branch that was taken is looked into; sequences and types that cannot be shown are left out."""
    found = names(run(kinds(name)).candidates[0])
    if "If" in name:  # which branch it is, the seeded input decides
        expected = [e for e in expected if e not in ("t1", "t2", "n1", "n2", "n")]
        found = [f for f in found if f not in ("t1", "t2", "n1", "n2", "n")]
    assert found == expected


def test_a_fault_inside_a_branch_is_named() -> None:
    """A fault in the branch of an If that is taken is named by the tensor inside it."""
    good, bad = (proto_of([node("Greater", ["m", "z"], ["c"]), node("If", ["c"], ["y"], then_branch=branch(
        [node(op, ["x"], ["t1"]), node("Relu", ["t1"], ["t2"])], "t2"), else_branch=branch(
        [node("Neg", ["x"], ["e1"])], "e1"))], [X, declared("m", ())], weights={"z": F32(-100)})
        for op in ("Exp", "Sin"))
    candidate = run(good, bad).candidates[0]
    assert candidate.first_bad is not None
    assert candidate.first_bad.tensor == "t1"


def test_nan_on_one_side() -> None:
    """A wrong sign that makes NaN later: the operator with the wrong sign is named, not the one that gives NaN."""
    first, second = (proto_of([node("Exp", ["x"], ["a"]), node(op, ["a"], ["b"]), node("Sqrt", ["b"], ["c"]),
                               node("Relu", ["c"], ["y"])]) for op in ("Abs", "Neg"))
    candidate = run(first, second).candidates[0]
    assert candidate.verdict == "divergence"
    assert candidate.first_bad is not None
    assert (candidate.first_bad.tensor, candidate.first_bad.kind) == ("b", "implementation")


def test_nan_born_in_the_candidate() -> None:
    """An operator that gives NaN at inputs where the reference's gives none is named as non-finite."""
    good = proto_of([node("Exp", ["x"], ["a"]), node("Mul", ["a", "k"], ["b"]), node("Relu", ["b"], ["y"])],
                    weights={"k": F32(2)})
    bad = proto_of([node("Exp", ["x"], ["a"]), node("Mul", ["a", "k"], ["b"]), node("Relu", ["b"], ["y"])],
                   weights={"k": F32("nan")})
    candidate = run(good, bad).candidates[0]
    assert candidate.verdict == "divergence"
    assert candidate.first_bad is not None
    assert (candidate.first_bad.tensor, candidate.first_bad.kind) == ("b", "nonfinite")


def test_an_error_in_read_padding_is_a_fault() -> None:
    """Padding that something reads is no excuse."""
    good, bad = (proto_of(
        [node("Pad", ["x", "pads", "v"], ["p"]), node("Exp", ["p"], ["y"])],
        weights={"pads": np.array([0, 1, 0, 1]), "v": F32(v)}) for v in (0, 0.5))
    candidate = run(good, bad).candidates[0]
    assert candidate.first_bad is not None
    assert candidate.first_bad.tensor == "p"


def test_an_error_in_unread_padding_is_none() -> None:
    """What is cut away before anything computes with it is nobody's fault."""
    good, bad = (proto_of(
        [node("Pad", ["x", "pads", "v"], ["p"]), node("Slice", ["p", "from", "to"], ["s"]), node("Exp", ["s"], ["y"])],
        weights={"pads": np.array([0, 1, 0, 1]), "v": F32(v), "from": np.array([0, 1]), "to": np.array([2, 4])})
        for v in (0, 0.5))
    candidate = run(good, bad).candidates[0]
    assert (candidate.verdict, candidate.first_bad) == ("parity", None)


def tensors_of(proto: ModelProto, keep: Sequence[str]) -> dict[str, np.ndarray]:
    """Tensors of an FP32 run on seeded inputs."""
    model = Model.from_proto(proto)
    feed, _ = seeded_feed(model, 0)
    values = Executor(model).run(feed, keep)
    return {n: to_numpy(values[n]) for n in keep}


def against_dump(tmp_path: Path, arrays: Mapping[str, Any], proto: ModelProto | None = None,
                 **options: Any) -> Candidate:
    """The chain against tensors taken elsewhere."""
    np.savez(tmp_path / "dump.npz", **arrays)
    model = saved(tmp_path / "m.onnx", chain() if proto is None else proto)
    report = compare_files(Request(model, [tmp_path / "dump.npz"], "pytorch", [], [], None, [], 1), Options(**options))
    assert (tmp_path / "dump.npz").name in report.candidates[0].target
    return report.candidates[0]


@pytest.mark.parametrize("keep", [CHAIN, ("y",), ("a", "d", "y"), ("c", "e"), ("d",)])
def test_a_clean_dump_raises_no_alarm(tmp_path: Path, keep: Sequence[str]) -> None:
    """Whatever part of its tensors a sound run left in a file, nothing is blamed."""
    candidate = against_dump(tmp_path, tensors_of(chain(), keep))
    assert (candidate.status, candidate.verdict, candidate.first_bad) == ("ok", "parity", None)
    assert names(candidate) == list(keep)


@pytest.mark.parametrize(("fault", "keep", "region"), [
    ("w1", CHAIN, "c"), ("w1", ("a", "b", "d", "e", "y"), "cd"), ("w1", ("b", "e", "y"), "cde"),
    ("w0", ("b", "y"), "ab"), ("w2", ("d", "f"), "ef"), ("w0", ("d",), "abcd"), ("w1", ("b", "c"), "c"),
])
def test_a_fault_lies_between_shown_tensors(tmp_path: Path, fault: str, keep: Sequence[str], region: str) -> None:
    """Where the faulty tensor itself is hidden, the sub-graph up to the next shown one is the unit, and is named."""
    candidate = against_dump(tmp_path, tensors_of(chain(fault), keep))
    found = candidate.first_bad
    assert found is not None
    assert (found.tensor, found.kind) == (region[-1], "implementation")
    assert "".join(found.region) == (region if len(region) > 1 else "")
    before = CHAIN.index(region[0]) - 1
    assert found.after == ((CHAIN[before] if before >= 0 else "x",) if len(region) > 1 else ())


def test_a_dump_without_outputs_decides_by_its_tensors(tmp_path: Path) -> None:
    """Where no graph output was taken, the tensors decide, and a note says so."""
    clean, faulty = (against_dump(tmp_path, tensors_of(chain(f), ["c", "d"])) for f in ("", "w1"))
    assert (clean.verdict, faulty.verdict) == ("parity", "divergence")
    for candidate in (clean, faulty):
        assert candidate.outputs == ()
        assert any("none of the model's outputs" in note for note in candidate.notes)


def test_an_output_that_a_dump_lacks_is_said(tmp_path: Path) -> None:
    """A verdict that rests on some of the outputs only says on which not."""
    two = proto_of([node("Relu", ["x"], ["a"]), node("Exp", ["a"], ["y"])], outputs=[declared("a"), declared("y")])
    candidate = against_dump(tmp_path, tensors_of(two, ["y"]), two)
    assert [o.tensor for o in candidate.outputs] == ["y"]
    assert any("'a'" in note for note in candidate.notes)


@pytest.mark.parametrize(("name", "change"), [
    ("c", lambda c: c.T), ("c", np.ravel), ("c", lambda c: c[:2]), ("b", lambda b: b[..., None]),
    ("c", lambda c: np.array(["text"])), ("c", lambda c: c.astype(str)), ("c", lambda c: c.astype(np.int32)),
    ("c", lambda c: c + np.complex64(1j)),
])
def test_a_dumped_tensor_that_cannot_be_compared_is_left_out(tmp_path: Path, name: str,
                                                             change: Callable[[Any], np.ndarray]) -> None:
    """One of another shape or sort is no divergence; the note says what it is, and the others are compared."""
    arrays = tensors_of(chain("w2"), CHAIN)
    candidate = against_dump(tmp_path, {**arrays, name: change(arrays[name])})
    assert names(candidate) == [n for n in CHAIN if n != name]
    assert candidate.first_bad is not None
    assert candidate.first_bad.tensor == "e"
    assert any(f"left out, as '{name}' is " in note and "float32 [4, 8] in the model" in note
               for note in candidate.notes)


@pytest.mark.parametrize("change", [
    lambda v: {**v, "y": v["y"][:2]}, lambda v: {**v, "y": v["y"].astype(str)},
    lambda v: {n: a.astype(np.int32) for n, a in v.items()}, lambda v: {"c": v["c"].T, "d": v["d"][0]},
])
def test_a_dump_of_something_else_has_no_verdict(tmp_path: Path, change: Callable[[Any], Mapping[str, Any]]) -> None:
    """Where an output, or all that it holds, cannot be compared, that is said, and nothing is judged."""
    candidate = against_dump(tmp_path, change(tensors_of(chain(), CHAIN)))
    assert (candidate.status, candidate.verdict) == ("failed", "error")
    assert "cannot be compared: '" in candidate.reason
    assert "float32 [4, 8] in the model. Save it as the model has it" in candidate.reason


def test_a_dump_of_zeros_diverges_from_the_start(tmp_path: Path) -> None:
    """The right shapes and types with nothing in them are a result, and a wrong one."""
    candidate = against_dump(tmp_path, {n: 0 * a for n, a in tensors_of(chain(), CHAIN).items()})
    assert candidate.first_bad is not None
    assert (candidate.first_bad.tensor, candidate.verdict) == ("a", "divergence")


def test_a_lone_array_is_the_only_output(tmp_path: Path) -> None:
    """A .npy that is called like no tensor is it; where there are several outputs, it must say which."""
    two = proto_of([node("Relu", ["x"], ["a"]), node("Exp", ["a"], ["y"])], outputs=[declared("a"), declared("y")])
    for proto, status in ((chain(), "ok"), (two, "failed")):
        np.save(tmp_path / "result.npy", tensors_of(proto, ["y"])["y"])
        model = saved(tmp_path / "m.onnx", proto)
        candidate = compare_files(Request(model, [tmp_path / "result.npy"]), Options()).candidates[0]
        assert candidate.status == status, candidate.reason
        if status == "failed":
            assert "does not say which tensor that is. Give it the name of one, as a.npy" in candidate.reason


def test_a_dump_of_other_inputs_is_refused(tmp_path: Path) -> None:
    """Where the file holds inputs that are not those of the run, its tensors say nothing about it."""
    model = saved(tmp_path / "m.onnx", chain())
    x, other = (np.random.default_rng(seed).normal(size=(4, 8)).astype(F32) for seed in (1, 2))
    y = to_numpy(Executor(Model.load(model)).run({"x": x})["y"])
    np.savez(tmp_path / "dump.npz", x=x, y=y)
    np.savez(tmp_path / "other.npz", x=other)
    np.savez(tmp_path / "half.npz", x=x.astype(np.float16), y=y)
    same, different = (compare_files(Request(model, [tmp_path / "dump.npz"], inputs=[str(tmp_path / name)]),
                                     Options()).candidates[0] for name in ("dump.npz", "other.npz"))
    assert (same.status, same.verdict, different.status) == ("ok", "parity", "failed")
    assert "dump.npz holds input 'x', and it is another than that of this run" in different.reason
    narrow = compare_files(Request(model, [tmp_path / "half.npz"], inputs=[str(tmp_path / "dump.npz")]), Options())
    assert narrow.candidates[0].verdict == "parity"


def test_watching_is_not_spoken_of_for_a_dump(tmp_path: Path) -> None:
    """Nobody watched a file: even where it holds NaN, its own shares and tensors are of the one run that there was."""
    arrays = tensors_of(chain(), CHAIN)
    candidate = against_dump(tmp_path, {**arrays, "y": np.full_like(arrays["y"], np.nan)})
    assert candidate.watching_moved_outputs is None
    assert candidate.attribution is None or "watching" not in candidate.attribution.withheld
    assert not any("atching" in note for note in candidate.notes)


@pytest.mark.parametrize("change", [
    lambda a: a.astype(np.float64), lambda a: a.astype(a.dtype.newbyteorder(">")), np.asfortranarray,
    lambda a: a.astype(np.complex64), lambda a: a.astype(np.float16),
])
def test_a_dump_in_other_clothes(tmp_path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Wider and narrower floats, other byte and memory orders hold the same tensors; FP16 is judged as FP16."""
    candidate = against_dump(tmp_path, {n: change(a) for n, a in tensors_of(chain(), CHAIN).items()})
    assert (candidate.status, candidate.verdict, candidate.first_bad) == ("ok", "parity", None)


@pytest.mark.parametrize(("tensor", "verdict"), [("d", "parity"), ("y", "divergence")])
def test_a_nan_in_a_dump(tmp_path: Path, tensor: str, verdict: str) -> None:
    """A NaN on the candidate's side alone is named as non-finite, even where the outputs do not show it."""
    arrays = tensors_of(chain(), CHAIN)
    arrays[tensor] = arrays[tensor].copy()
    arrays[tensor][1, 2] = np.nan
    candidate = against_dump(tmp_path, arrays)
    assert candidate.first_bad is not None
    assert (candidate.first_bad.tensor, candidate.first_bad.kind) == (tensor, "nonfinite")
    assert candidate.verdict == verdict


def test_a_dump_that_holds_its_inputs_is_fed_them(tmp_path: Path) -> None:
    """A file with the model's inputs among its tensors is compared on those, not on seeded ones."""
    model = Model.from_proto(chain())
    x = np.random.default_rng(7).normal(size=(4, 8)).astype(F32)
    values = Executor(model).run({"x": x}, ["c"])
    candidate = against_dump(tmp_path, {"x": x, "c": to_numpy(values["c"]), "y": to_numpy(values["y"])})
    assert (candidate.verdict, candidate.first_bad) == ("parity", None)


def test_many_stretches_find_what_one_finds() -> None:
    """With room for hardly a tensor the run is cut after every node, and finds the very same."""
    model, faulty = Model.from_proto(chain()), Model.from_proto(chain("w2"))
    feed, _ = seeded_feed(model, 0)
    one, many = (compare(model, [Contender(ORT, faulty)], [feed], [], options=Options(
        RunOptions("off", threads=1, memory=memory))).candidates[0] for memory in (2**30, 1))
    assert one.tensors == many.tensors
    assert one.first_bad == many.first_bad
    assert one.outputs == many.outputs


@pytest.mark.parametrize("name", ["sequences", "BF16 inside", "a Loop", "an If, then", "Q/DQ", "zero elements",
                                  "an output is read"])
def test_stretches_do_not_cut_what_cannot_be_handed_over(name: str) -> None:
    """Sequences, types that numpy lacks and dequantised tensors stay in one stretch, however little memory there is."""
    model = Model.from_proto(kinds(name))
    feed, _ = seeded_feed(model, 0)
    candidate = compare(model, [Contender(ORT)], [feed], [], options=Options(
        RunOptions(threads=1, memory=1))).candidates[0]
    assert (candidate.status, candidate.verdict, candidate.first_bad) == ("ok", "parity", None)


def test_external_data(tmp_path: Path) -> None:
    """A model whose weights lie in a file beside it is compared like any other."""
    import onnx

    onnx.save(chain(), str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.bin", size_threshold=0)
    assert (tmp_path / "m.bin").stat().st_size > 1000
    report = compare_files(Request(tmp_path / "m.onnx", [], "pytorch", ["onnxruntime"], [], None, [], 1), Options())
    assert (report.verdict, report.candidates[0].first_bad) == ("parity", None)
    assert names(report.candidates[0]) == list(CHAIN)


def test_string_inputs_from_a_file(tmp_path: Path) -> None:
    """Text goes through untouched, and is compared for equality."""
    text = declared("s", (2,), TensorProto.STRING)
    proto = proto_of([node("Identity", ["s"], ["t"]), node("Relu", ["x"], ["y"])], [X, text],
                     [Y, declared("t", None, TensorProto.STRING)])
    np.savez(tmp_path / "in.npz", x=np.ones((2, 3), F32), s=np.array(["a", "é🙂"]))
    report = compare_files(Request(saved(tmp_path / "m.onnx", proto), [], "pytorch", ["onnxruntime"],
                           [str(tmp_path / "in.npz")], None, [], 1), Options())
    assert (report.verdict, names(report.candidates[0])) == ("parity", ["t", "y"])
    with pytest.raises(FeedError, match="no values can be made"):
        seeded_feed(Model.from_proto(proto), 0)


def test_labels_give_the_accuracy_on_both_sides(tmp_path: Path) -> None:
    """With labels the report says how often the arg-max is right, on either side."""
    model = saved(tmp_path / "m.onnx", chain())
    worst = tensors_of(chain(), ["y"])["y"].argmin(axis=1)
    np.save(tmp_path / "labels.npy", worst)
    labels = tmp_path / "labels.npy"
    report = compare_files(Request(model, [], "pytorch", ["onnxruntime"], [], labels, [], 1), Options())
    accuracy = report.candidates[0].accuracy[0]
    assert (accuracy.output, accuracy.reference, accuracy.candidate, accuracy.samples) == ("y", 0.0, 0.0, 4)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_outputs_are_those_of_the_unwatched_run(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What watching does to the tensors cannot change the verdict, and how far it moved the outputs is told."""
    watch = OrtSession.watch

    def moved(self: OrtSession, feed: Any, wanted: Any, sizes: Any) -> Any:
        for chunk in watch(self, feed, wanted, sizes):
            yield {n: v * F32(1.5) if n == "y" else v for n, v in chunk.items()}

    monkeypatch.setattr(OrtSession, "watch", moved)
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, seed)
    candidate = compare(model, [Contender(ORT)], [feed], []).candidates[0]
    assert candidate.verdict == "parity"
    assert candidate.watching_moved_outputs == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("undone", [True, False])
def test_what_watching_hides_is_searched_for(undone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the deployed run that watching undoes is named by marking a few tensors, or said not to be found."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    session = InProcess().open(model, survey(model, feed).flat, ORT, RunOptions(threads=1))
    sound = {n: v for chunk in session.watch(feed, CHAIN, {}) for n, v in chunk.items()}

    def tampered(self: OrtSession, feed: Any, names: Any = ()) -> Capture:
        """Tensors from "c" on are off, unless somebody looks at "b", or at anything."""
        right = bool(names) if undone else "b" in names
        shown = {n: v if right or n in ("a", "b") else 2 * v for n, v in sound.items() if n in (*names, "y")}
        return Capture(shown, "1", "cpu", 0.1)

    monkeypatch.setattr(OrtSession, "show", tampered)
    monkeypatch.setattr(OrtSession, "run", tampered)
    candidate = compare(model, [Contender(ORT)], [feed], []).candidates[0]
    assert candidate.verdict == "divergence"
    if undone:
        assert candidate.first_bad is None
        assert any("did not find the layer: every marking that was tried" in n for n in candidate.notes)
        assert any("no layer is blamed" in n for n in candidate.notes)
        return
    assert candidate.first_bad is not None
    assert (candidate.first_bad.tensor, candidate.first_bad.kind) == ("c", "implementation")
    assert candidate.first_bad.accumulated is not None
    assert candidate.first_bad.accumulated.rel_l2 == pytest.approx(1.0)
    assert any("between 'a' and 'c'" in n for n in candidate.notes)
    assert not any("no layer is blamed" in n for n in candidate.notes)


def test_the_reference_that_cannot_run_is_an_error() -> None:
    """Where the reference itself fails there is nothing to report."""
    proto = proto_of([node("Reshape", ["x", "s"], ["y"])], weights={"s": np.array([5, 7])})
    with pytest.raises(ModelError, match="Reshape"):
        compare(Model.from_proto(proto), [Contender(ORT)], [{"x": np.ones((2, 3), F32)}], [])


def test_a_backend_that_breaks_half_way_keeps_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate whose watched run fails is a failed row with what had been measured by then."""
    watch = OrtSession.watch

    def breaking(self: OrtSession, feed: Any, wanted: Any, sizes: Any) -> Any:
        stretches = watch(self, feed, wanted, dict.fromkeys(sizes, self._options.memory))
        yield next(stretches)
        self._call(self._plain, ["no such output"], feed)

    monkeypatch.setattr(OrtSession, "watch", breaking)
    report = run(chain())
    candidate = report.candidates[0]
    assert (report.verdict, candidate.status, candidate.verdict) == ("error", "failed", "error")
    assert "no such output" in candidate.reason
    assert names(candidate) == ["a"]


def test_progress_ends_at_the_whole() -> None:
    """Whoever watches the progress is told of every tensor, up to the last."""
    told: list[tuple[str, int, int]] = []
    run(chain(), progress=lambda what, done, total: told.append((what, done, total)))
    assert ("onnxruntime", 7, 7) in told
    assert all(done <= total for _, done, total in told)


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("optimization", ["all", "off"])
def test_no_false_alarm_on_real_models(real_model: RealModel, optimization: str) -> None:
    """PyTorch against ONNX Runtime, and against a file of outputs alone, on real inputs: parity, nothing blamed."""
    model = Model.load(real_model.path)
    feed, _ = load_feed(model, [str(real_model.inputs_path)])
    contenders = [Contender(ORT)]
    if optimization == "off":  # as the outputs in the file were made
        contenders.append(Contender(None, tensors=real_model.expected_path))
    report = compare(model, contenders, [feed], [], options=Options(RunOptions(optimization)))
    assert [(c.status, c.reason, c.verdict, c.first_bad) for c in report.candidates] == [
        ("ok", "", "parity", None)] * len(contenders)


def test_every_failure_is_of_the_tree() -> None:
    """What a caller of the pipeline must catch is ParityError, whichever argument is wrong."""
    for files, reference, targets in ((["absent.onnx"], "pytorch", []), ([], "nonsense", []), ([], "pytorch", ["x y"])):
        request = Request(Path("absent.onnx"), [Path(f) for f in files], reference, targets, [], None, [], 1)
        with pytest.raises(ParityError):
            compare_files(request, Options())
