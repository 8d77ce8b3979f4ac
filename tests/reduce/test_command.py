"""`parity reduce` as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import CommandLine, chain, saved


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line, its files in a folder of the test's own."""
    return CommandLine(tmp_path, monkeypatch, capsys)


def test_the_exit_status_says_what_came_of_it(command: CommandLine) -> None:
    """0 where there is nothing to reduce, 1 with the files written, 2 where it cannot be done."""
    good = saved(command.folder / "good.onnx", chain())
    bad = saved(command.folder / "bad.onnx", chain("w0"))
    nothing = command("reduce", good, "-o", command.folder / "none")
    assert nothing.status == 0
    assert nothing.out == "nothing to reduce: the target keeps to its tolerance, and no tensor is to blame\n"
    written = command("reduce", good, bad, "-o", command.folder / "repro", "--threads", 1)
    assert written.status == 1
    assert "MatMul" in written.out
    assert "passes on reference.onnx" in written.out
    assert {p.name for p in (command.folder / "repro").iterdir()} == {
        "repro.onnx", "reference.onnx", "inputs.npz", "expected.npz", "test_repro.py", "BUG.md"}
    again = command("reduce", good, "-o", command.folder / "repro")
    assert again.status == 0
    assert again.out.splitlines()[1] == f"{command.folder / 'repro'} holds the repro of an earlier run"
    (command.folder / "repro" / "test_repro.py").write_text("def test_mine(): ...\n", encoding="utf-8")
    for folder, held in (("repro", "test_repro.py"), ("mine", "inputs.npz")):
        mine = command.folder / folder / held
        mine.parent.mkdir(exist_ok=True)
        mine.touch()
        before = mine.read_bytes()
        kept = command("reduce", good, bad, "-o", mine.parent)
        assert kept.status == 2
        assert f"{mine} was not written by parity" in kept.err
        assert mine.read_bytes() == before
    for wrong in (["-c", "pytorch:fp16"], ["-c", "onnxruntime@cuda"], ["-c", "onnxruntime", "-c", "onnxruntime:int8"]):
        refused = command("reduce", good, *wrong, "-o", command.folder / "refused")
        assert refused.status == 2
        assert len(refused.err.splitlines()) == 2
