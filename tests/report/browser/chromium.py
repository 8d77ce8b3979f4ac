"""Reports that are opened in a browser."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from parity.report.record import Report
from tests.report import samples
from tests.report.browser.installed import AXE


@dataclass
class Visit:
    """One opened report, and all that it said or asked for.

    Attributes:
        page: Playwright's.
        said: errors and warnings of the console, and exceptions that nobody caught.
        asked: addresses that it requested beside its own.
    """

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda m: self.said.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda r: None if r.url.startswith(("data:", "blob:")) else self.asked.append(r.url))

    def drawn(self) -> Visit:
        """Wait until plotly has drawn every figure, where there is one."""
        self.page.wait_for_selector("body[data-drawn]", timeout=60_000)
        return self

    def narrowed(self, width: int) -> int:
        """How wide the page is, in pixels, once it had time to fit itself into a window of this width."""
        self.page.set_viewport_size({"width": width, "height": 844})
        return int(self.page.evaluate("""wanted => new Promise(done => {
            const end = performance.now() + 5000, root = document.documentElement;
            const look = () => root.scrollWidth <= wanted || performance.now() > end ? done(root.scrollWidth)
                : requestAnimationFrame(look);
            look();
        })""", width))

    def faults(self) -> list[str]:
        """What accessibility rules find that is serious, for the colours and the width of now."""
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [f"{v['id']}: {v['help']} ({', '.join(str(n['target']) for n in v['nodes'][:3])})"
                for v in found["violations"] if v["impact"] in ("serious", "critical")]

    def texts(self, selector: str) -> list[str]:
        """What is written in every element that can be seen."""
        shown = self.page.locator(selector)
        return [shown.nth(i).inner_text() for i in range(shown.count()) if shown.nth(i).is_visible()]


def large(layers: int, targets: int) -> Report:
    """A run over targets of many layers."""
    some = samples.layers(300, 150)
    tensors = tuple(replace(some[i % 300], index=i, tensor=f"/model/block{i // 9}/{i}_output_0") for i in range(layers))
    reads = {layer.tensor: (tensors[i - 1].tensor,) for i, layer in enumerate(tensors) if i}
    shown = replace(samples.bad(), tensors=tensors, first_bad=samples.blame(tensors[150]))
    return replace(samples.report(*(replace(shown, target=f"target{i}") for i in range(targets))), reads=reads)
