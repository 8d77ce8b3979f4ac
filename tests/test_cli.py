"""The command line as a user meets it: exit status, one clear line for bad input, and what is left on the disk."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from parity.analysis.measure import METRICS
from parity.backends.ort import OrtSession
from tests.builders import CHAIN, CommandLine, Outcome, chain, declared, node, proto_of, saved
from tests.models import FIXTURES

PIPELINE = importlib.import_module("parity.compare")
SAMPLE = importlib.import_module("parity.sample")
HOSTILE = (
    "<script>alert(1)</script>", "it's \"quoted\" `so`", "emoji 🙂", "n" * 500, "\u202eright to left مرحبا",
    "new\nline\tand tab", "[red]bold[/red]", "\x1b[31mred\x1b[0m", "=1+1", "../../etc/passwd", "a,b;c", "%s{}", " ",
    "C:\\x\\",
)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """`parity …` in this process, reporting to an empty folder."""
    return CommandLine(tmp_path / "report", monkeypatch, capsys)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small sound model."""
    return saved(tmp_path / "good.onnx", chain())


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """The same with a fault at c that hardly moves the output."""
    return saved(tmp_path / "faulty.onnx", chain("w1"))


def could_not(outcome: Outcome, *words: str) -> None:
    """Exit status 2, with a line that says what is wrong, one that says what to do, and nothing else."""
    lines = outcome.err.rstrip("\n").split("\n")
    assert outcome.status == 2, outcome
    assert len(lines) == 2, outcome.err
    assert lines[0].startswith("parity: ")
    assert lines[1].startswith("        ")
    assert lines[1].strip()
    assert outcome.err.replace("\n", "").isprintable()
    for word in words:
        assert word in outcome.err


def npz(path: Path, **arrays: Any) -> Path:
    """Save arrays under their names."""
    np.savez(path, **arrays)
    return path


def test_parity_is_status_0_and_quiet_on_standard_error(command: CommandLine, model: Path) -> None:
    """Two runtimes that agree: status 0, the three files, no progress bar into a pipe."""
    outcome = command.compare(model)
    assert (outcome.status, outcome.err) == (0, "")
    assert {p.name for p in outcome.folder.iterdir()} == {"report.json", "layers.csv", "report.html"}
    assert outcome.report.verdict == "parity"
    assert [t.tensor for t in outcome.candidate.tensors] == list(CHAIN)


def test_divergence_is_status_1(command: CommandLine, model: Path, tmp_path: Path) -> None:
    """Outputs beyond tolerance: status 1, and the first bad tensor is on the screen."""
    outcome = command.compare(model, saved(tmp_path / "other.onnx", chain("w3")), "--tolerance", "rel_l2=1e-9")
    assert outcome.status == 1
    assert outcome.report.verdict == "divergence"
    assert outcome.candidate.first_bad is not None
    assert outcome.candidate.first_bad.tensor == "f"
    assert "f" in outcome.out


def test_a_hidden_fault_fails_only_when_strict(command: CommandLine, model: Path, faulty: Path) -> None:
    """A fault that the outputs hide is named with verdict parity; only --strict makes it status 1."""
    outcome = command.compare(model, faulty)
    assert (outcome.status, outcome.report.verdict) == (0, "parity")
    assert outcome.candidate.first_bad is not None
    assert outcome.candidate.first_bad.tensor == "c"
    assert command.compare(model, faulty, "--strict").status == 1
    assert command.compare(model, "--strict").status == 0


def broken_models(folder: Path) -> Mapping[str, Path]:
    """Files that are no model that can be run, by what is wrong with them."""
    relu = node("Relu", ["x"], ["y"])
    data = chain().SerializeToString()
    (folder / "a_folder").mkdir()
    files = {"text": b"hello, world", "empty": b"", "truncated": data[:len(data) // 2],
             "half a header": data[:3], "zeros": bytes(64)}
    for name, content in files.items():
        (folder / f"{name}.onnx").write_bytes(content)
    protos = {
        "unknown op": proto_of([node("Frobnicate", ["x"], ["y"])]),
        "unknown domain": proto_of([node("Frob", ["x"], ["y"], domain="acme")], domains={"acme": 1}),
        "cycle": proto_of([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])]),
        "missing data": external("weights.bin"), "data elsewhere": external("../weights.bin"),
        "nothing produces": proto_of([node("Relu", ["ghost"], ["y"])]),
        "old": proto_of([relu], opset=5, ir=3),
        "fails": proto_of([node("Reshape", ["x", "s"], ["y"])], weights={"s": np.array([5, 7])}),
    }
    for name, proto in protos.items():
        saved(folder / f"{name}.onnx", proto)
    paths = {name: folder / f"{name}.onnx" for name in (*files, *protos)}
    return {**paths, "folder": folder / "a_folder", "absent": folder / "absent.onnx"}


def external(location: str) -> Any:
    """A model whose weight lies in a file that is not beside it."""
    proto = proto_of([node("Add", ["x", "w"], ["y"])], weights={"w": np.ones((2, 3), np.float32)})
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    return proto


@pytest.mark.parametrize(("name", "words"), [
    ("text", "not an ONNX model"), ("empty", "not an ONNX model"), ("truncated", "truncated"),
    ("half a header", "not an ONNX model"), ("zeros", "not an ONNX model"),
    ("unknown op", "Frobnicate"), ("unknown domain", "acme::Frob"), ("cycle", "cycle"), ("missing data", "missing"),
    ("data elsewhere", "outside the model's folder"), ("nothing produces", "'ghost'"), ("old", "opset 5"),
    ("fails", "Reshape"), ("folder", "no model file"), ("absent", "no model file"),
])
def test_bad_models_get_one_clear_line(command: CommandLine, tmp_path: Path, name: str, words: str) -> None:
    """What is no model that can be run is refused in a line, and an older report stays as it was."""
    command.folder.mkdir()
    (command.folder / "report.json").write_text("precious")
    (tmp_path / "weights.bin").write_bytes(bytes(24))
    folder = tmp_path / "models"
    folder.mkdir()
    could_not(command.compare(broken_models(folder)[name]), words)
    assert [p.name for p in command.folder.iterdir()] == ["report.json"]
    assert (command.folder / "report.json").read_text() == "precious"


ROW = np.ones((4, 8), np.float32)


@pytest.mark.parametrize(("arrays", "words"), [
    ({"z": ROW}, "'z'"), ({"x": ROW.astype(np.float64)}, "astype('float32')"), ({"x": ROW[:, :5]}, "axis 1 must be 8"),
    ({"x": ROW[0]}, "'x'"), ({"x": np.array([{}], dtype=object)}, "pickled"),
    ({"x": np.array(["a"])}, "'x'"), ({}, "nothing"),
])
def test_bad_inputs_get_one_clear_line(command: CommandLine, model: Path, tmp_path: Path, arrays: Mapping[str, Any],
                                       words: str) -> None:
    """An input of the wrong name, dtype or shape, or a pickle, is refused by name."""
    could_not(command.compare(model, "--input", npz(tmp_path / "in.npz", **arrays)), words)


@pytest.mark.parametrize(("arguments", "words"), [
    (["--tolerance", "rel_l2=abc"], "not a number"), (["--tolerance", "foo=1"], "'foo=1'"),
    (["--tolerance", "rel_l2=nan"], "nothing can be within nan"), (["--tolerance", "rel_l2=-1"], "within -1"),
    (["--tolerance", ""], "neither a precision nor"), (["--tolerance", "rel_l2"], "neither a precision nor"),
    (["--samples", "0"], "--samples"), (["--seed", "-1"], "--seed"), (["--seed", str(2**64)], "--seed"),
    (["--threads", "-1"], "--threads"), (["--threads", "1000000"], "--threads"), (["--memory", "0"], "--memory"),
    (["--optimization", "max"], "max"), (["--frobnicate"], "--frobnicate"), (["--shape", "x"], "NAME=AxBxC"),
    (["--shape", "x=9x9"], "axis 0 must be 4"), (["--shape", "q=1"], "no input 'q'"),
    (["--shape", "x=-1x8"], "x=-1x8"), (["--input", "absent.npz"], "no input file"),
    (["--input", "x=absent.npy"], "no input file"), (["--labels", "absent.npy"], "absent.npy"),
    (["-c", ""], "not of the form"), (["-c", "A B"], "not of the form"), (["-c", "pytorch:fp99"], "'fp99'"),
    (["-c", "nonsense"], "'nonsense'"), (["-r", "nonsense"], "'nonsense'"), (["-r", "onnxruntime@mars"], "'mars'"),
    (["absent.onnx"], "no model file"), (["absent.npz"], "no input file"), (["notes.txt"], "notes.txt"),
])
def test_bad_options_get_one_clear_line(command: CommandLine, model: Path, arguments: Sequence[str],
                                        words: str) -> None:
    """Every option's nonsense is refused in a line that quotes it."""
    could_not(command.compare(model, *arguments), words)


def test_options_for_seeded_inputs_exclude_files(command: CommandLine, model: Path, tmp_path: Path) -> None:
    """--samples and --shape make no sense beside --input."""
    given = ["--input", npz(tmp_path / "in.npz", x=ROW)]
    could_not(command.compare(model, *given, "--samples", 2), "--samples")
    could_not(command.compare(model, *given, "--shape", "x=4x8"), "--shape")


@pytest.mark.parametrize("labels", [np.zeros(7, np.int64), np.zeros(4), np.zeros((4, 1), np.int64)])
def test_labels_that_fit_no_output_are_refused(command: CommandLine, model: Path, tmp_path: Path,
                                               labels: np.ndarray) -> None:
    """Labels that could only be left unused, silently, are refused: of another count, type or rank."""
    np.save(tmp_path / "labels.npy", labels)
    could_not(command.compare(model, "--labels", tmp_path / "labels.npy"), "label")


@pytest.mark.parametrize("target", ["nonsense", "onnxruntime:fp99", "pytorch@"])
def test_an_impossible_target_is_told_before_anything_runs(command: CommandLine, model: Path, target: str,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error in a target does not cost a run of the reference first."""
    monkeypatch.setattr(PIPELINE, "compare", never)
    could_not(command.compare(model, "-c", "onnxruntime", "-c", target), target.partition("@")[0])


def never(*arguments: object, **more: object) -> None:
    """Stands in for work that must not be begun."""
    raise AssertionError("work was begun")


@pytest.mark.parametrize("where", ["file/report", "file", "proc"])
def test_an_unwritable_folder_is_told_before_the_run(command: CommandLine, model: Path, tmp_path: Path, where: str,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """No measuring is begun for a report that could not be written."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(PIPELINE, "compare_files", never)
    folder = Path("/proc/parity") if where == "proc" else tmp_path / where
    could_not(command("compare", model, "-o", folder), "cannot write", str(folder))


@pytest.mark.parametrize("where", ["file/r.json", "."])
def test_an_unwritable_json_is_told_before_the_run(command: CommandLine, model: Path, tmp_path: Path, where: str,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds for --json FILE, where FILE may not be a folder either."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(PIPELINE, "compare_files", never)
    could_not(command.compare(model, "--json", tmp_path / where))


def test_json_elsewhere_and_no_html(command: CommandLine, model: Path, tmp_path: Path) -> None:
    """--json makes the folders of another place for the JSON; --no-html leaves the page out."""
    elsewhere = tmp_path / "new" / "deep" / "r.json"
    outcome = command.compare(model, "--json", elsewhere, "--no-html", "--no-fixes")
    assert outcome.status == 0
    assert json.loads(elsewhere.read_text())["schema_version"] == 1
    assert [p.name for p in outcome.folder.iterdir()] == ["layers.csv"]


def test_an_unsorted_graph_is_sorted_and_run(command: CommandLine, tmp_path: Path) -> None:
    """A graph whose nodes are in no topological order is compared all the same."""
    nodes = [node("Relu", ["b"], ["y"]), node("Exp", ["a"], ["b"]), node("Sin", ["x"], ["a"])]
    outcome = command.compare(saved(tmp_path / "unsorted.onnx", proto_of(nodes)))
    assert outcome.status == 0
    assert [t.tensor for t in outcome.candidate.tensors] == ["a", "b", "y"]


def test_a_candidate_that_cannot_run_costs_no_other_its_row(command: CommandLine, model: Path, faulty: Path,
                                                            tmp_path: Path) -> None:
    """Candidates that fail each get a row with the reason; the sound one is measured; the status is 2."""
    other = [declared("z", (4, 8))]
    bad = {
        "names": proto_of([node("Relu", ["x"], ["q"])], [declared("x", (4, 8))], [declared("q", None)]),
        "inputs": proto_of([node("Relu", ["z"], ["y"])], other),
        "shape": proto_of([node("Relu", ["x"], ["y"])], [declared("x", (4, 9))]),
        "dtype": proto_of([node("Relu", ["x"], ["y"])], [declared("x", (4, 8), TensorProto.DOUBLE)],
                          [declared("y", None, TensorProto.DOUBLE)]),
        "runtime": proto_of([node("Reshape", ["x", "s"], ["y"])], [declared("x", (4, 8))],
                            weights={"s": np.array([5, 7])}),
        "op": proto_of([node("Frobnicate", ["x"], ["y"])], [declared("x", (4, 8))]),
    }
    files = [saved(tmp_path / f"{name}.onnx", proto) for name, proto in bad.items()]
    outcome = command.compare(model, *files, npz(tmp_path / "dump.npz", q=ROW), faulty)
    assert outcome.status == 2
    *failed, sound = outcome.report.candidates
    assert [c.status for c in failed] == ["failed"] * 7
    reasons = dict(zip([*bad, "dump"], (c.reason for c in failed), strict=True))
    expected = {"names": "no tensor name in common", "inputs": "'z'", "shape": "axis 1 must be 9", "dtype": "'x'",
                "runtime": "Reshape", "op": "Frobnicate", "dump": "no tensor name in common"}
    for name, words in expected.items():
        assert words in reasons[name], name
    assert (sound.status, sound.verdict) == ("ok", "parity")
    assert sound.first_bad is not None
    assert sound.first_bad.tensor == "c"


@pytest.mark.parametrize("target", ["onnxruntime@cuda", "onnxruntime@quantum", "pytorch@cuda"])
def test_an_unavailable_target_is_a_row_with_its_reason(command: CommandLine, model: Path, target: str) -> None:
    """A target asked for that cannot run here gets a row, never a silent replacement; the status is 2."""
    outcome = command.compare(model, "-c", "onnxruntime", "-c", target)
    sound, absent = outcome.report.candidates
    if absent.status == "ok":
        pytest.skip(f"{target} is here")
    assert outcome.status == 2
    assert (sound.status, sound.verdict, len(sound.tensors)) == ("ok", "parity", 7)
    assert (absent.target, absent.status, absent.verdict, absent.tensors) == (target, "unavailable", "error", ())
    assert absent.reason.split()
    assert target in outcome.out


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_show_as_text(command: CommandLine, tmp_path: Path, name: str) -> None:
    """Any tensor name survives: as itself in the JSON, as text on the page, without control codes on the screen."""
    good = saved(tmp_path / "a.onnx", proto_of([node("Exp", ["x"], [name], name=name), node("Relu", [name], ["y"])]))
    bad = saved(tmp_path / "b.onnx", proto_of([node("Sin", ["x"], [name]), node("Relu", [name], ["y"])]))
    outcome = command.compare(good, bad, "--verbose")
    assert outcome.status == 1
    first = outcome.candidate.first_bad
    assert first is not None
    assert (first.tensor, first.node) == (name, name)
    page = (outcome.folder / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert outcome.out.replace("\n", "").isprintable() or "\u202e" not in outcome.out
    assert "\x1b" not in outcome.out


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_in_errors_stay_on_one_line(command: CommandLine, tmp_path: Path, name: str) -> None:
    """A name in an error message can neither break the line nor move the cursor."""
    good = saved(tmp_path / "a.onnx", proto_of([node("Exp", [name], ["y"])], [declared(name)]))
    could_not(command.compare(good, "--input", npz(tmp_path / "in.npz", q=ROW)))


def test_nothing_compared_is_no_parity(command: CommandLine, tmp_path: Path) -> None:
    """Inputs without elements make outputs without elements, which agree about nothing."""
    path = saved(tmp_path / "open.onnx", proto_of([node("Relu", ["x"], ["y"])], [declared("x", ("n", 3))]))
    could_not(command.compare(path, "--shape", "x=0x3"), "'x' is empty, and so is every output")


def test_interrupted_in_the_middle(command: CommandLine, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a candidate is walked: what was measured so far is written, marked partial, with status 2."""
    interrupt_after(monkeypatch, 1)
    outcome = command.compare(model, "-c", "pytorch:fp64", "-c", "onnxruntime", "-c", "pytorch")
    assert outcome.status == 2
    assert outcome.report.partial
    whole, broken = outcome.report.candidates
    assert (whole.status, len(whole.tensors)) == ("ok", 7)
    assert (broken.status, broken.reason, broken.verdict) == ("failed", "interrupted", "error")
    assert [t.tensor for t in broken.tensors] == list(CHAIN[:3])
    assert len(broken.outputs) == 1
    assert "interrupted" in outcome.out.lower()
    assert {p.name for p in outcome.folder.iterdir()} == {"report.json", "layers.csv", "report.html"}


def interrupt_after(monkeypatch: pytest.MonkeyPatch, chunks: int) -> None:
    """Make ONNX Runtime show three tensors a stretch, and Ctrl-C arrive after some stretches."""
    watch = OrtSession.watch

    def interrupted(self: OrtSession, feed: Any, names: Any, sizes: Any) -> Iterator[Mapping[str, np.ndarray]]:
        stretches = watch(self, feed, names, dict.fromkeys(sizes, self._options.memory // 3 + 1))
        for _ in range(chunks):
            yield next(stretches)
        raise KeyboardInterrupt

    monkeypatch.setattr(OrtSession, "watch", interrupted)


def test_interrupted_in_the_second_sample(command: CommandLine, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sample's figures survive an interrupt in the second."""
    run, first = OrtSession.run, dict[str, np.ndarray]()

    def interrupted(self: OrtSession, feed: Any) -> Any:
        if not np.array_equal(feed["x"], first.setdefault("x", feed["x"])):
            raise KeyboardInterrupt
        return run(self, feed)

    monkeypatch.setattr(OrtSession, "run", interrupted)
    outcome = command.compare(model, "--samples", 2)
    assert (outcome.status, outcome.report.partial) == (2, True)
    assert [t.tensor for t in outcome.candidate.tensors] == list(CHAIN)


def test_interrupted_before_anything_was_measured(command: CommandLine, model: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the reference's run leaves a line, status 2, and no files."""

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SAMPLE, "survey", interrupted)
    outcome = command.compare(model)
    assert outcome.status == 2
    assert outcome.err.strip() == "parity: interrupted before the report was complete"
    assert list(outcome.folder.iterdir()) == []


_SLOW_RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background would ignore it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and so would one under nohup
from parity.backends.ort import OrtSession
from parity.cli import main
watch = OrtSession.watch
def slow(self, feed, names, sizes):
    stretches = watch(self, feed, names, dict.fromkeys(sizes, self._options.memory))
    yield next(stretches)
    yield next(stretches)
    print("measuring", flush=True)
    sys.stdin.read()
OrtSession.watch = slow
sys.argv[0] = "parity"
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_real_interrupt(model: Path, tmp_path: Path, number: signal.Signals) -> None:
    """A signal to a process that is in the middle of a watched run: a partial report, status 2, no temporary files."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    arguments = [sys.executable, "-c", _SLOW_RUN, "compare", str(model), "-c", "onnxruntime", "-o", str(tmp_path / "r")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(FIXTURES.parent), "TMPDIR": str(scratch)}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "measuring\n"
        assert any(p.name.startswith("parity-") for p in scratch.iterdir())
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (2, "")
    assert not any(p.name.startswith("parity-") for p in scratch.iterdir())
    report = Outcome(2, out, err, tmp_path / "r").report
    assert report.partial
    assert [t.tensor for t in report.candidates[0].tensors] == ["a", "b"]


def test_a_full_disk_leaves_whole_files_or_none(command: CommandLine, model: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the report cannot be written the figures are still shown, an older report survives, and no scrap stays."""
    assert command.compare(model).status == 0
    before = {p.name: p.read_bytes() for p in command.folder.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    outcome = command.compare(model, "--seed", 1)
    assert outcome.status == 2
    assert "cannot write" in outcome.err
    assert "No space left on device" in outcome.err
    assert "onnxruntime parity" in outcome.out
    assert {p.name: p.read_bytes() for p in command.folder.iterdir()} == before


def test_an_interrupt_while_writing_leaves_no_scrap(command: CommandLine, model: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between the bytes of a file leaves no temporary one behind."""

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    outcome = command.compare(model)
    assert outcome.status == 2
    assert list(outcome.folder.iterdir()) == []


NUMBER, TEXT, FLAG = (int, float), str, bool
OPTIONAL_NUMBER = (int, float, str, type(None))  # a non-finite one is "nan", "inf" or "-inf"
CANDIDATE = {
    "target": TEXT, "status": TEXT, "reason": TEXT, "emulated": FLAG, "verdict": TEXT,
    "watching_moved_outputs": OPTIONAL_NUMBER, "outputs": list, "tensors": list, "first_bad": (dict, type(None)),
    "attribution": (dict, type(None)), "diagnoses": list, "fixes": list,
}
ENTRY = {
    "tensor": TEXT, "node": (str, type(None)), "op": TEXT, "index": int, "source": (str, type(None)),
    "accumulated": (dict, type(None)), "local": (dict, type(None)), "precision": OPTIONAL_NUMBER,
    "implementation": OPTIONAL_NUMBER, "share": OPTIONAL_NUMBER, "energy": OPTIONAL_NUMBER, "passed": FLAG,
    "origin": (str, type(None)),
}


def check(value: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Every field of the contract is there with its type."""
    for name, kind in fields.items():
        assert name in value
        assert isinstance(value[name], kind), name


def test_report_json_keeps_the_contract(command: CommandLine, model: Path, faulty: Path, tmp_path: Path) -> None:
    """Every field that other programs rely on is there, with its type, as strict JSON."""
    dump = npz(tmp_path / "dump.npz", y=np.full((4, 8), np.nan, np.float32))
    data = command.compare(model, faulty, dump, npz(tmp_path / "none.npz", q=ROW), "--labels",
                          npz(tmp_path / "labels.npz", labels=np.zeros(4, np.int64))).json
    check(data, {"schema_version": int, "verdict": TEXT, "model": dict, "inputs": list, "seed": int,
                 "environment": dict, "reference": dict, "candidates": list, "partial": FLAG, "samples": int})
    assert (data["schema_version"], data["verdict"]) == (1, "divergence")
    check(data["model"], {"path": TEXT, "sha256": TEXT, "nodes": int, "tensors": int})
    assert (len(data["model"]["sha256"]), data["model"]["nodes"], data["model"]["tensors"]) == (64, 7, 7)
    for given in data["inputs"]:
        check(given, {"name": TEXT, "dtype": TEXT, "shape": list, "source": TEXT})
    assert data["inputs"] == [{"name": "x", "dtype": "float32", "shape": [4, 8], "source": "seeded normal"}]
    check(data["reference"], {"target": TEXT, "status": TEXT})
    for candidate in data["candidates"]:
        check(candidate, CANDIDATE)
        assert candidate["status"] in {"ok", "unavailable", "failed"}
        assert candidate["verdict"] in {"parity", "divergence", "error"}
        for entry in (*candidate["outputs"], *candidate["tensors"]):
            check(entry, ENTRY)
            for comparison in filter(None, (entry["accumulated"], entry["local"])):
                check(comparison, {**dict.fromkeys(METRICS, (int, float, str)), "nan": int, "inf": int})
    sound, nonfinite, failed = data["candidates"]
    assert sound["first_bad"]["kind"] == "implementation"
    check(sound["first_bad"], {"tensor": TEXT, "node": (str, type(None)), "op": TEXT, "index": int, "kind": TEXT,
                               "accumulated": dict, "local": dict})
    assert nonfinite["first_bad"]["kind"] == "nonfinite"
    assert nonfinite["outputs"][0]["accumulated"]["rel_l2"] == "inf"
    assert nonfinite["outputs"][0]["accumulated"]["min_candidate"] == "nan"
    assert (failed["status"], failed["first_bad"]) == ("failed", None)


def test_one_seed_one_result(command: CommandLine, model: Path) -> None:
    """The same seed gives the same figures, another seed other ones."""
    first, again, other = (command.compare(model, "--seed", seed).report for seed in (3, 3, 4))
    assert (first.seed, other.seed) == (3, 4)
    assert first.candidates[0].tensors == again.candidates[0].tensors
    assert first.candidates[0].tensors != other.candidates[0].tensors


def test_options_reach_the_run(command: CommandLine, tmp_path: Path) -> None:
    """--shape, --samples, --threads and --optimization show in the report."""
    model = saved(tmp_path / "m.onnx", proto_of([node("Exp", ["x"], ["y"])], [declared("x", ("n", 3))]))
    report = command.compare(model, "--shape", "x=5x3", "--samples", 3, "--threads", 2, "--optimization", "off").report
    assert report.inputs[0].shape == (5, 3)
    assert report.samples == 3
    assert (report.environment["threads"], report.environment["optimization"]) == ("2", "off")
    assert report.command.startswith("parity compare ")


def test_several_samples_show_the_worst(command: CommandLine, model: Path, faulty: Path) -> None:
    """With --samples each tensor has its worst figures of all samples, the fault stays named."""
    one = command.compare(model, faulty, "--seed", 5)
    three = command.compare(model, faulty, "--seed", 5, "--samples", 3)
    assert three.candidate.first_bad is not None
    assert three.candidate.first_bad.tensor == "c"
    assert len(three.candidate.tensors) == len(one.candidate.tensors) == 7
    worst = [next(t for t in o.candidate.tensors if t.tensor == "c").implementation for o in (one, three)]
    assert worst[1] is not None
    assert worst[0] is not None
    assert worst[1] >= worst[0]


@pytest.mark.parametrize("arguments", [
    ["-r", "onnxruntime", "-c", "pytorch"], ["-c", "pytorch:fp64"], ["-r", "pytorch:fp64", "-c", "onnxruntime"],
    ["-r", "pytorch:fp64", "-c", "pytorch"], ["--tolerance", "fp16"], ["--tolerance", "cosine=0.999", "--tolerance",
     "max_abs=1e-3"], ["--tolerance", "rel_l2=inf"], ["--tolerance", "sqnr_db=60"], ["--optimization", "basic"],
    ["--memory", "1"], ["--threads", "1"],
])
def test_a_sound_model_is_at_parity_whichever_way_it_is_asked(command: CommandLine, model: Path,
                                                              arguments: Sequence[str]) -> None:
    """Reference and candidate may be any target, the tolerance of any form: no alarm, no bad layer."""
    outcome = command.compare(model, *arguments)
    assert outcome.status == 0
    assert (outcome.candidate.verdict, outcome.candidate.first_bad) == ("parity", None)


@pytest.mark.parametrize("arguments", [
    ["-r", "onnxruntime", "-c", "pytorch"], ["-c", "pytorch:fp64"], ["-r", "pytorch:fp64", "-c", "onnxruntime"],
    ["-c", "pytorch"], ["-c", "onnxruntime", "--optimization", "off"],
])
def test_a_fault_is_named_whichever_way_it_is_asked(command: CommandLine, model: Path, faulty: Path,
                                                    arguments: Sequence[str]) -> None:
    """The faulty node is named on every pair of targets."""
    outcome = command.compare(model, faulty, *arguments)
    assert outcome.candidate.first_bad is not None
    assert outcome.candidate.first_bad.tensor == "c"


def test_the_files_given_may_be_relative_and_odd(command: CommandLine, model: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Without -o the report goes to reports/MODEL under the current folder, whatever the model's file is called."""
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / "my [model] 🙂.onnx"
    odd.write_bytes(model.read_bytes())
    assert command("compare", odd.name, "-c", "onnxruntime", "--no-html").status == 0
    assert (tmp_path / "reports" / "my [model] 🙂" / "report.json").exists()


def test_report_is_shown_again(command: CommandLine, model: Path, faulty: Path, tmp_path: Path) -> None:
    """`parity report RUN.json` shows the same words and writes the same files elsewhere, with status 0."""
    command.compare(model, faulty)
    again = command("report", command.folder / "report.json", "-o", tmp_path / "again")
    assert again.status == 0
    for name in ("report.json", "layers.csv", "report.html"):
        assert (tmp_path / "again" / name).read_bytes() == (command.folder / name).read_bytes()
    assert "c" in again.out


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"schema_version": 99}', '{"schema_version": 1}', "\xff"])
def test_a_damaged_report_gets_one_clear_line(command: CommandLine, tmp_path: Path, content: str | None) -> None:
    """What is no report is refused, and nothing is written beside it."""
    path = tmp_path / "run" / "report.json"
    path.parent.mkdir()
    if content is not None:
        path.write_text(content, encoding="latin-1")
    could_not(command("report", path))
    assert [p.name for p in path.parent.iterdir()] == ([] if content is None else ["report.json"])


def test_backends_lists_what_can_run(command: CommandLine) -> None:
    """`parity backends` names every backend with its devices or what it lacks."""
    outcome = command("backends")
    assert outcome.status == 0
    assert "pytorch@cpu" in outcome.out
    assert "onnxruntime@cpu" in outcome.out


@pytest.mark.parametrize(("arguments", "status", "words"), [
    (["--help"], 0, "Exit status: 0 parity"), (["-h"], 0, "compare"), (["--version"], 0, "parity"),
    (["compare", "--help"], 0, "--tolerance"), (["compare"], 2, "MODEL"), (["frobnicate"], 2, "frobnicate"),
    ([], None, "Usage: parity"),
])
def test_help_and_nonsense(command: CommandLine, arguments: Sequence[str], status: int | None, words: str) -> None:
    """Help is status 0, a wrong command 2; either way the words come without stray escapes."""
    outcome = command(*arguments)
    assert status is None or outcome.status == status
    assert words in outcome.out + outcome.err
    assert "\\b" not in outcome.out + outcome.err


def test_help_imports_nothing_heavy() -> None:
    """`parity --help` loads neither torch, numba, onnx nor onnxruntime."""
    script = ("import sys; from parity.cli import cli\n"
              "try: cli(['compare', '--help'])\n"
              "except SystemExit: pass\n"
              "print(sorted({'torch', 'numba', 'onnx', 'onnxruntime', 'numpy', 'plotly', 'rich'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True,
                          cwd=FIXTURES.parent)
    assert done.stdout.rstrip().endswith("[]")


def test_the_installed_command(tmp_path: Path) -> None:
    """The console script itself: a trained fixture against its faulty twin, named and shown in a pipe."""
    script = Path(sys.executable).with_name("parity")
    if not script.exists():
        pytest.skip("the console script is not installed")
    done = subprocess.run(
        [script, "compare", FIXTURES / "digits_cnn" / "model.onnx", FIXTURES / "digits_cnn_faulty" / "model.onnx",
         "--input", FIXTURES / "digits_cnn" / "inputs.npz", "-o", tmp_path], capture_output=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"})
    planted = json.loads((FIXTURES / "digits_cnn_faulty" / "PLANTED.json").read_text())
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert done.stderr == b""
    assert done.returncode == (1 if report["verdict"] == "divergence" else 0)
    assert report["candidates"][0]["first_bad"]["tensor"] == planted["tensor"]
    assert planted["tensor"].encode() in done.stdout
