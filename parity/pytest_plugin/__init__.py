"""parity in pytest: a fixture, a marker, and models listed in parity.toml.

    def test_cnn(parity):
        parity.assert_parity("cnn.onnx", candidates=["onnxruntime", "onnxruntime:int8"])

    @pytest.mark.parity(model="cnn.onnx", candidates=["onnxruntime", "tensorrt:fp16"], allow=["tensorrt"])
    def test_cnn_everywhere(): ...

    pytest --parity         # the models listed in parity.toml, or under [tool.parity] in pyproject.toml

This is imported in every run of pytest where parity is installed, so nothing here imports anything heavy.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from parity.errors import ParityError
from parity.pytest_plugin.asserting import NOTE, TARGETS, Parity
from parity.pytest_plugin.case import Case, matches, name_of
from parity.pytest_plugin.collect import PARITY, ListFile, PairItem, case_of_marker, run, told
from parity.pytest_plugin.listed import FILE, lists_models

_PLACE = "_parity_candidate"  # the parameter that holds which of a marker's candidates a test is for
_SHOWN = 10  # notes in the summary


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup("parity", "where a deployed network stops matching the trained one")
    group.addoption("--parity", action="store_true", help=f"Run the models listed in {FILE} or [tool.parity] too.")
    group.addoption("--parity-report", metavar="DIR", help="Write a report of every comparison to this folder.")
    group.addoption("--parity-update", action="store_true", help="Store the figures of what passes as baselines.")
    group.addoption("--parity-targets", metavar="TARGETS", action="append", default=[],
                    help="Only these targets or backends, separated by commas; repeatable.")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and have `pytest --parity` find what is listed at the root."""
    config.addinivalue_line("markers", "parity(model, candidates=['onnxruntime'], ...): compare a model with each of "
                                       "its candidates, a test each; takes what parity.assert_parity does.")
    config.stash[TARGETS] = [t.strip() for text in config.getoption("parity_targets") for t in text.split(",")]
    _refuse_unknown(config.stash[TARGETS])
    if config.getoption("parity"):
        _add_lists(config)


def _refuse_unknown(targets: list[str]) -> None:
    """A misspelt target would leave nothing to compare, which looks like success.

    Raises:
        pytest.UsageError: a target that is none, or of no known backend.
    """
    if not targets:
        return
    from parity.backends.base import backend_of
    from parity.targets import Target

    for target in targets:
        try:
            backend_of(Target.parse(target))
        except ParityError as error:
            raise pytest.UsageError(f"--parity-targets: {error}") from None


def _add_lists(config: pytest.Config) -> None:
    """Add the lists at the root to what is collected, unless the user said what to collect."""
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        return
    known = (config.rootpath / FILE, config.rootpath / "pyproject.toml")
    listed = [path for path in known if path.is_file() and lists_models(path)]
    if not listed:
        raise pytest.UsageError(f"--parity runs models that are listed, and {config.rootpath} has no {FILE}, nor a "
                                "pyproject.toml with [tool.parity]. Leave out --parity: tests with the fixture or the "
                                "marker need none of it, and `pytest --parity-update` stores their baselines.")
    walked = [config.invocation_params.dir / Path(argument) for argument in config.args]
    config.args += [str(p) for p in listed if not any(p.is_relative_to(folder) for folder in walked)]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ListFile | None:
    """Collect what is listed, where --parity or the file itself was asked for."""
    if file_path.suffix != ".toml" or not (parent.config.getoption("parity") or parent.session.isinitpath(file_path)):
        return None
    return ListFile.from_parent(parent, path=file_path) if lists_models(file_path) else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each candidate of a marked function."""
    try:
        case = case_of_marker(metafunc.definition)
    except ParityError as error:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: {told(error)}") from None
    if case is not None:
        metafunc.fixturenames.append(_PLACE)
        names = [name_of(candidate, place) for place, candidate in enumerate(case.candidates)]
        metafunc.parametrize(_PLACE, range(len(names)), ids=names)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of targets that --parity-targets leaves out."""
    wanted = config.stash[TARGETS]
    left_out = [item for item in items if wanted and not _is_for(item, wanted)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _is_for(item: pytest.Item, wanted: list[str]) -> bool:
    """Whether a test is for one of these targets, or for none in particular."""
    if isinstance(item, PairItem):
        return matches(item.pair.target, wanted)
    place = _place(item)
    case = None if place is None else case_of_marker(item)
    return case is None or place is None or matches(name_of(case.candidates[place], place), wanted)


def _place(item: pytest.Item) -> int | None:
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get(_PLACE)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start anew, where a test is repeated too."""
    item.stash[PARITY] = Parity(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Compare for a marked function before it runs; one that pytest cannot parametrise gets all candidates at once."""
    run(item, lambda: _marked(item))


def _marked(item: pytest.Item) -> Case | None:
    """What the marker of a test asks of this one of its candidates."""
    case, place = case_of_marker(item), _place(item)
    return case if case is None or place is None else replace(case, candidates=[case.candidates[place]])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report as skipped a test that passed without the targets that it allows to be missing."""
    report = yield
    missing = item.stash[PARITY].missing if PARITY in item.stash else []
    if report.when == "call" and missing and not report.failed:
        report.outcome = "skipped"
        report.longrepr = (str(item.path), (item.location[1] or 0) + 1, f"Skipped: {'; '.join(missing)}")
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out and what became of baselines: neither a dot nor an s says it."""
    lines = []
    for report in (r for reports in terminalreporter.stats.values() for r in reports):
        if isinstance(report, pytest.TestReport) and report.when == "call":
            notes = [str(note) for name, note in report.user_properties if name == NOTE]
            lines += [f"{report.nodeid}: {note}" for note in notes]
    if lines:
        terminalreporter.section("parity")
        for line in lines[:_SHOWN]:
            terminalreporter.write_line(line)
        if len(lines) > _SHOWN:
            terminalreporter.write_line(f"and {len(lines) - _SHOWN} more")


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Parity:
    """`parity.assert_parity(model, candidates=[…])` fails unless each candidate is within tolerance of the model."""
    return request.node.stash[PARITY]  # type: ignore[no-any-return]
