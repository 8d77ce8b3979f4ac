"""Whether there is what browser tests need."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

from tests.models import ROOT

# Accessibility rules, which scripts/browser fetches from npm.
AXE = ROOT / ".venv" / "browser" / "axe.min.js"


def executable() -> str | None:
    """Path of Chromium or Chrome: PARITY_CHROMIUM, else what is installed."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return os.environ.get("PARITY_CHROMIUM") or next((path for path in found if path), None)


def browser_present() -> bool:
    """Whether Playwright, a browser and axe-core are there."""
    return find_spec("playwright") is not None and executable() is not None and AXE.is_file()
