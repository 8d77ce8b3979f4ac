"""The HTML report is one closed file whose names cannot act."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from parity.report.html import render
from parity.report.record import Report
from tests.report import samples


class Page(HTMLParser):
    """A document as its elements, its visible text, and the contents of its script and style elements."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect an element."""
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        """Collect text, or what a script or style element holds."""
        if self.cdata_elem:
            tag, attributes, before = self.raw[-1]
            self.raw[-1] = (tag, attributes, before + data)
        else:
            self.text += data

    def holding(self, name: str) -> str:
        """The content of the script element of this id."""
        return next(content for _, attributes, content in self.raw if attributes.get("id") == name)

    def data(self) -> Any:
        """What report.js reads."""
        return json.loads(self.holding("data"))


def page(name: str) -> Page:
    """A sample, rendered and read."""
    return Page(render(samples.EVERY[name]))


def digest(text: str) -> str:
    """The text's hash as a policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def policy(shown: Page) -> dict[str, str]:
    """The page's content security policy by directive."""
    content = next(a["content"] for tag, a in shown.elements if tag == "meta" and a.get("http-equiv"))
    assert content is not None
    parts = (part.strip().partition(" ") for part in content.split(";"))
    return {name: sources for name, _, sources in parts}


@pytest.mark.parametrize("name", samples.EVERY)
def test_nothing_is_asked_from_elsewhere(name: str) -> None:
    """No element refers to anything but a place in the page or a data address, nor carries a handler or a style."""
    for tag, attributes in page(name).elements:
        assert tag not in ("iframe", "object", "embed", "base", "form", "img")
        for key, value in attributes.items():
            assert key not in ("src", "srcset", "style", "action")
            assert not key.startswith("on")
            assert key != "href" or (value or "").startswith(("#", "data:"))


@pytest.mark.parametrize("name", samples.EVERY)
def test_the_policy_lets_only_its_own_texts_run(name: str) -> None:
    """Everything is refused but the page's own scripts and styles, each by the hash of its text."""
    shown = page(name)
    rules = policy(shown)
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in str(rules)
    assert rules["img-src"] == "data:"
    inflated = zlib.decompress(base64.b64decode(shown.holding("plotly"))).decode()
    running = [content for tag, a, content in shown.raw if tag == "script" and a.get("type") is None]
    assert rules["script-src"].split() == [digest(running[0]), digest(inflated)]
    assert len(running) == 1
    assert {digest(content) for tag, _, content in shown.raw if tag == "style"} <= set(rules["style-src"].split())


def test_hostile_names_show_as_text() -> None:
    """Names that are markup appear in the text as they are, and make no element."""
    shown, plain = page("hostile"), page("divergence")
    for name in ("<script>alert(1)</script>", "</script><img src=x onerror=alert(2)>", "\"quotes\" & 'apostrophes'",
                 r"\u202egnp.exe", r"esc\x1b[31mape", "<b>target</b>", "<u>cpu</u>"):
        assert name in shown.text
    kinds = {tag for tag, _ in plain.elements}
    assert {tag for tag, _ in shown.elements} <= kinds
    assert sum(tag == "script" for tag, _ in shown.elements) == 3


def test_embedded_json_cannot_end_its_element() -> None:
    """The JSON holds no character that HTML or an old script reader gives a meaning."""
    shown = page("hostile")
    assert not set("<>&\u2028\u2029") & set(shown.holding("data"))
    assert "<script>alert(1)</script>" in shown.data()["strings"]


def test_the_answer_needs_no_script() -> None:
    """Verdicts, first bad layer, outputs, reasons, notes, accuracy and facts are in the HTML itself."""
    text = page("mixed").text
    for said in ("Divergence on onnxruntime:fp16. First bad layer: /layer2/BatchNormalization_17_output_0",
                 "divergence: 1 of 2 outputs beyond tolerance", "could not run: no NVIDIA driver",
                 "emulated: a forecast", "0.02, accepted up to 2.00e-6 (10,000 times over)", "model.py:27", "94.0%",
                 "Watching the tensors moved the outputs", "parity compare fixtures/cnn.onnx", "9f" * 32, "2.13.0"):
        assert said in text


def test_the_layers_are_embedded_as_columns() -> None:
    """Every tensor's figures are in the page to five digits, its names by place in one list."""
    report = samples.EVERY["divergence"]
    data = page("divergence").data()
    (columns,) = data["candidates"]
    tensors = report.candidates[0].tensors
    assert columns["count"] == len(tensors)
    assert columns["first"] == 17
    assert [data["strings"][i] for i in columns["texts"]["tensor"]] == [layer.tensor for layer in tensors]
    for shown, layer in zip(columns["figures"]["local"], tensors, strict=True):
        assert layer.local is not None
        assert shown == pytest.approx(layer.local.rel_l2, rel=1e-4)
    assert "share" not in columns["figures"]


def test_nonfinite_and_missing_figures_are_embedded() -> None:
    """Infinity and what is missing survive strict JSON."""
    (columns,) = page("nonfinite").data()["candidates"]
    assert columns["figures"]["local"][1:] == ["inf", "inf", None]
    assert columns["figures"]["floor"][2:] == [None, None]
    assert "∞" in page("nonfinite").text


def test_the_candidate_in_focus() -> None:
    """The page opens on the real target that diverges, and a target that could not run has no layers."""
    data = page("mixed").data()
    assert data["focus"] == 1
    assert [each["place"] for each in data["candidates"]] == [0, 1, 3]
    assert page("no candidates").data() == {"focus": None, "candidates": [], "strings": []}


def test_ids_are_unique() -> None:
    """No id stands twice, and each label and link finds its target."""
    shown = page("mixed")
    ids = [a["id"] for _, a in shown.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in shown.elements:
        for key in ("aria-labelledby", "for"):
            assert set((attributes.get(key) or "").split()) <= set(ids)
        link = attributes.get("href") or ""
        assert not link.startswith("#") or link[1:] in ids


def test_rendering_is_stable() -> None:
    """The same report gives the same text, and a report read back from JSON does too."""
    report = samples.EVERY["mixed"]
    assert render(report) == render(Report.from_json(report.to_json()))


def test_no_placeholder_is_left() -> None:
    """A dollar sign in a name is a dollar sign, and every placeholder of the template was filled."""
    command = "parity compare $model ${data} $$"
    shown = Page(render(replace(samples.EVERY["parity"], command=command)))
    assert command in shown.text
    assert not re.search(r"\$[a-z{]", shown.text.replace(command, ""))


@pytest.mark.parametrize(("layers", "targets", "limit"), [(300, 1, 2.5e6), (10_000, 4, 12e6)])
def test_the_file_stays_small(layers: int, targets: int, limit: float) -> None:
    """300 layers fit 2.5 MB, 10,000 layers of four targets 12 MB."""
    tensors = samples.layers(300, 150)
    many = tuple(replace(tensors[i % 300], index=i, tensor=f"/model/block{i // 9}/{i}_output_0") for i in range(layers))
    candidates = [replace(samples.bad(), target=f"target{i}", tensors=many) for i in range(targets)]
    assert len(render(samples.report(*candidates)).encode()) <= limit
