"""The files of a report: each appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from parity.errors import OutputError
from parity.report.record import Report


def ensure_writable(folder: Path) -> None:
    """Make the folder and try it, so that a long run is not lost to a folder that cannot be written.

    Raises:
        OutputError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {folder} ({error.strerror or error})",
                          "Choose another folder with -o DIR.") from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file by way of a temporary one beside it.

    Raises:
        OutputError: it cannot be written; what was at `path` before is still there.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", dir=path.parent, delete=False) as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror or error})",
                          "Choose another folder with -o DIR.") from error
    finally:  # whatever broke it off, an interrupt too
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_report(report: Report, folder: Path, *, json: Path | None = None, html: bool = True) -> dict[str, Path]:
    """Write report.json, layers.csv and report.html.

    Args:
        report: what to write.
        folder: where to.
        json: another place for the JSON.
        html: whether to render the HTML too.

    Returns:
        The paths, by what they are.

    Raises:
        OutputError: a file cannot be written.
    """
    from parity.report.table import write_csv

    written = {"json": json or folder / "report.json", "csv": folder / "layers.csv"}
    write_whole(written["json"], report.to_json())
    write_whole(written["csv"], write_csv(report))
    if html:
        from parity.report.html import render

        written["html"] = folder / "report.html"
        write_whole(written["html"], render(report))
    return written


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
