"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from parity.errors import OutputError
from parity.report.record import Report
from parity.report.write import ensure_writable, write_report, write_whole
from tests.report.samples import EVERY


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    """Text arrives byte for byte, with the permissions that any new file gets."""
    path = tmp_path / "report.json"
    write_whole(path, "first\r\nsecond\n🙂")
    assert path.read_bytes() == "first\r\nsecond\n🙂".encode()
    (tmp_path / "ordinary").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_breaks_off_leaves_the_old_file_and_no_scrap(tmp_path: Path, call: str, failure: BaseException,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or an interrupt, before or after the bytes are out: the old file stands, nothing lies beside it."""
    path = tmp_path / "report.json"
    path.write_text("old")

    def fail(*arguments: object) -> None:
        raise failure

    monkeypatch.setattr(os if call == "fsync" else Path, call, fail)
    with pytest.raises(OutputError if isinstance(failure, OSError) else KeyboardInterrupt) as caught:
        write_whole(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert path.read_text() == "old"
    if isinstance(caught.value, OutputError):
        assert "No space left on device" in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize("spoil", [lambda p: p.mkdir(), lambda p: p.symlink_to(p / "itself")])
def test_a_place_that_cannot_hold_a_file(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """A folder where the file should go is an error; a dangling link is replaced by the file."""
    path = tmp_path / "report.json"
    spoil(path)
    if path.is_dir():
        with pytest.raises(OutputError, match="cannot write"):
            write_whole(path, "text")
        assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    else:
        write_whole(path, "text")
        assert path.read_text() == "text"
        assert not path.is_symlink()


def test_an_absent_folder_is_an_error(tmp_path: Path) -> None:
    """Writing makes no folders by itself."""
    with pytest.raises(OutputError, match="No such file"):
        write_whole(tmp_path / "absent" / "report.json", "text")


def test_ensure_writable_makes_the_folder_and_leaves_it_empty(tmp_path: Path) -> None:
    """Parents are made, and trying leaves no trace; doing it twice is fine."""
    for _ in range(2):
        ensure_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/parity"])
def test_ensure_writable_refuses(tmp_path: Path, where: str) -> None:
    """A file in the way, and a file system that takes no files."""
    (tmp_path / "file").write_text("")
    folder = Path(where) if where.startswith("/") else tmp_path / where
    with pytest.raises(OutputError, match="cannot write to") as caught:
        ensure_writable(folder)
    assert "-o DIR" in caught.value.hint


def test_the_three_files(tmp_path: Path) -> None:
    """JSON, CSV and HTML, each named in what is returned; the JSON reads back."""
    report = next(iter(EVERY.values()))
    written = write_report(report, tmp_path)
    assert written == {
        "json": tmp_path / "report.json", "csv": tmp_path / "layers.csv", "html": tmp_path / "report.html"}
    assert all(p.stat().st_size > 100 for p in written.values())
    assert Report.load(written["json"]).to_json() == report.to_json()


def test_fewer_files_and_other_places(tmp_path: Path) -> None:
    """Without HTML there is none, and the JSON goes where it is wanted."""
    report = next(iter(EVERY.values()))
    written = write_report(report, tmp_path, json=tmp_path / "other.json", html=False)
    assert set(written) == {"json", "csv"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["layers.csv", "other.json"]


def test_a_page_that_cannot_be_written_costs_not_the_figures(tmp_path: Path) -> None:
    """The JSON is written first, so that it is there whatever becomes of the rest."""
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError, match=r"report\.html"):
        write_report(next(iter(EVERY.values())), tmp_path)
    assert (tmp_path / "report.json").is_file()
    assert (tmp_path / "layers.csv").is_file()
