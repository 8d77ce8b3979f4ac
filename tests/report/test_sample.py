"""The sample report in reports/ is what parity renders of its figures now."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from types import ModuleType

from parity.report.record import Report
from tests.models import ROOT

SAMPLE = ROOT / "reports" / "sample"


def script() -> ModuleType:
    """scripts/sample as a module."""
    loader = SourceFileLoader("sample_script", str(ROOT / "scripts" / "sample"))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_sample_is_rendered_as_now() -> None:
    """Whoever changes how reports look runs scripts/sample, and reviews the difference."""
    report = Report.load(SAMPLE / "report.json")
    assert script().rendered(report) == (SAMPLE / "report.html").read_text(encoding="utf-8")
    assert report.verdict == "divergence"
