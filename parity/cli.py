"""The command line: its commands, and what becomes of errors. No logic lives here."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from parity.commands.calibrating import calibrate_tolerance
from parity.commands.comparing import compare, render_report
from parity.commands.fixing import fix
from parity.commands.models import backends, check, convert, inspect, write_inputs
from parity.commands.options import COULD_NOT
from parity.commands.reducing import reduce
from parity.errors import ParityError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="parity")
def cli() -> None:
    """Find where a deployed network stops matching the one that was trained.

    \b
    parity compare model.onnx                   PyTorch against ONNX Runtime, every tensor
    parity compare model.onnx other.onnx        two models, matched by tensor names
    parity compare model.onnx dump.npz          a model against tensors taken elsewhere
    parity inputs model.onnx -o elsewhere       the same inputs, for the tools there
    parity fix model.onnx --for onnxruntime:int8    the smallest change that brings a variant back

    Exit status: 0 parity, 1 divergence, 2 could not run.
    """  # noqa: D301 - click wants the character itself


for _command in (compare, fix, reduce, calibrate_tolerance, render_report, convert, check, backends, inspect,
                 write_inputs):
    cli.add_command(_command)


def _complain(message: str, hint: str, frames: tuple[str, ...] = ()) -> None:
    """One line that says what is wrong, one for each frame, and one that says what to do; none can move the cursor."""
    for lead, text in (("parity: ", message), *(("          ", frame) for frame in frames), ("        ", hint)):
        shown = " ".join(text.split())
        if not shown.isprintable():
            from parity.report.words import visible

            shown = visible(shown)
        if shown:
            click.echo(lead + shown, err=True)


@contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Take SIGTERM, which `timeout` and CI send, and SIGHUP, of a closed terminal, as Ctrl-C; a second one kills.

    So no temporary folder stays behind.
    """
    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # no other may
        yield
        return
    # Windows has no SIGHUP, and what nohup lets run on ignores it.
    taken = [s for name in ("SIGTERM", "SIGHUP") if (s := getattr(signal, name, None)) is not None
             and signal.getsignal(s) is not signal.SIG_IGN]
    former = {number: signal.signal(number, interrupt) for number in taken}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def main() -> None:
    """Run the command line; every failure is one line and exit status 2."""
    try:
        with _ended_as_interrupted():
            cli(prog_name="parity", standalone_mode=False)
    except ParityError as error:
        _complain(error.message, error.hint, error.frames)
        sys.exit(COULD_NOT)
    except click.ClickException as error:
        if len(sys.argv) == 1:  # the help, which newer versions of click raise
            error.show()
            sys.exit(COULD_NOT)
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "parity"
        _complain(error.format_message(), f"Try `{command} --help`.")
        sys.exit(COULD_NOT)
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted before the report was complete", "")
        sys.exit(COULD_NOT)
    except Exception as error:
        traceback.print_exc()
        click.echo("parity: this is a defect of parity; please report it with the lines above", err=True)
        raise SystemExit(COULD_NOT) from error
