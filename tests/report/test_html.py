"""The HTML report is one closed file whose names cannot act."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from parity.fixes.fix import CurvePoint
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
        """What the page's script reads."""
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
    assert page("no candidates").data() == {
        "focus": None, "model": "cnn", "candidates": [], "reads": [], "costs": [], "ladder": [], "runs": [],
        "history": [], "strings": []}


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


def test_why_where_from_and_fix_are_in_the_page() -> None:
    """Causes with evidence, the account, the fix with cost, curve and other tools' words need no script."""
    text = page("explained").text
    for said in ("int8-outliers", "so the bulk uses 4 of 255 steps.", "steps used 4",
                 "+56.1%", "−18.3%", "what the slopes miss", "together", "100.0%", "offsets", "Slopes: secant",
                 "Keep 3 layers in FP32, the rest in INT8.", "4.2 → 0.8 of its limit", "energy 0.100, rank 1 of 54",
                 "29.6%", "12.1 ms (11.9 to 13) → 14.2 ms", "Take INT8 ranges by percentile.", "fails",
                 "quantize_static(\n    nodes_to_exclude=['/layer0/Conv'", "trtexec (TensorRT up to 10)"):
        assert said in text
    assert "quantisation-aware training" not in text


def test_where_no_fix_passes_the_page_says_what_to_train() -> None:
    """The best found is named as such, and the configuration for training stands in the page, tabs as spaces."""
    text = page("no fix").text
    assert "No fix passes; the best found" in text
    assert "What quantisation-aware training should cover" in text
    assert "QConfigMapping()\n    .set_module_name('conv1', qconfig)" in text


def test_withheld_shares_leave_no_picture() -> None:
    """Without shares there is the reason and a table of energies, and nothing to draw."""
    shown = page("withheld")
    assert "Shares are not shown: the output is not finite (logits)." in shown.text
    assert "5.61e-4" in shown.text
    assert not [a for _, a in shown.elements if "data-plot" in a]
    assert "shares" not in shown.data()["candidates"][0]


def test_every_picture_has_its_words_and_its_figures() -> None:
    """A picture says what it shows, stays hidden until it is drawn, and its figures are embedded and in a table."""
    shown = page("explained")
    pictures = [a for _, a in shown.elements if "data-plot" in a]
    assert [a["data-plot"] for a in pictures] == ["shares", "curve"]
    assert all(a["role"] == "img" and "table beside it" in (a["aria-label"] or "") for a in pictures)
    assert sum(tag == "figure" and "hidden" in a for tag, a in shown.elements) == 4  # two stand once in the page
    columns = shown.data()["candidates"][1]
    assert sum(share for _, _, share, _ in columns["shares"]) == pytest.approx(1, abs=1e-4)
    assert columns["shares"][0] == ["/layer2/BatchNormalization_17_output_0", "BatchNormalization", 0.561, 17]
    assert columns["curve"][3] == [3, 0.72, 0.055556, 0.075]
    assert columns["fix"] == [3, 0.8]


def test_a_curve_with_infinities_is_embedded() -> None:
    """A point where the output is not finite survives strict JSON."""
    candidate = samples.explained()
    curve = (CurvePoint(0, math.inf, 0.0, 0.0), CurvePoint(1, math.nan, 0.1, 0.1))
    fixed = replace(candidate, fixes=(replace(candidate.fixes[1], curve=curve),))
    (columns,) = Page(render(samples.report(fixed))).data()["candidates"]
    assert [point[1] for point in columns["curve"]] == ["inf", "nan"]


def test_shares_and_energies_are_columns_of_the_layer_table() -> None:
    """The layer table gets both, by row."""
    figures = page("explained").data()["candidates"][1]["figures"]
    assert (figures["share"][17], figures["energy"][17]) == (0.561, 0.000561)


def test_links_to_layers_lead_to_rows() -> None:
    """Each layer that is named beyond the layer table leads to its own row in it."""
    report = samples.EVERY["explained"]
    tensors = report.candidates[1].tensors
    found = re.findall(r"data-row='(\d+)'><bdi class='name'>([^<]+)</bdi>", render(report))
    assert {tensors[int(row)].tensor for row, _ in found} == {name for _, name in found}
    assert len(found) >= 8


def test_hostile_findings_show_as_text() -> None:
    """Causes, fixes and snippets that are markup make no element, and snippets end no line they do not end."""
    shown, tame = page("hostile findings"), page("no fix")
    assert {tag for tag, _ in shown.elements} <= {tag for tag, _ in tame.elements}
    assert sum(tag == "script" for tag, _ in shown.elements) == 3
    assert "<script>alert(1)</script>\n<script>alert(1)</script>" in shown.text
    assert r"\u202egnp.exe" in shown.text
    assert "\u202e" not in shown.text


def test_a_run_for_a_fix_begins_with_it() -> None:
    """The page of `parity fix` has the fix in its headline, in the colour of what passes, and first in the detail."""
    shown = page("repaired")
    assert ("h1", {"class": "good"}) in shown.elements
    assert shown.text.index("The fix") < shown.text.index("First bad layer", shown.text.index("On onnxruntime:int8"))
    assert "Outputs without the fix" in shown.text
