"""The layer table, the page of a layer, and the ways that lead there."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from urllib.parse import quote

import pytest

from parity.report.html import render
from parity.report.table import COLUMNS, write_csv
from tests.report import samples
from tests.report.browser.chromium import Visit, large
from tests.report.browser.conftest import Opening

pytestmark = pytest.mark.browser

FIRST = "/layer2/BatchNormalization_17_output_0"


def tensors(seen: Visit) -> list[str]:
    """The names in the rows that are drawn."""
    return seen.texts("#table tbody tr:not(.gap) .c-tensor")


def test_search_and_filters_narrow_the_table(visit: Opening) -> None:
    """Search, operator and only-bad narrow it together, and the count says to how much."""
    seen = visit("pictured")
    seen.page.locator("#op").select_option("=Conv")
    assert seen.texts("#count") == ["10 of 40 tensors"]
    seen.page.locator("#search").fill("LAYER2")
    assert tensors(seen) == ["/layer2/Conv_16_output_0", "/layer2/Conv_19_output_0"]
    seen.page.locator("#search").fill("")
    seen.page.locator("#op").select_option("")
    seen.page.locator("#only-bad").check()
    assert tensors(seen) == [FIRST]
    seen.page.locator("#search").fill("nothing of that name")
    assert seen.texts("#table .empty") == ["No tensor matches."]


def test_a_module_leads_to_its_layers(visit: Opening) -> None:
    """A module's name in the account by module filters the table by it and all that is in it; so does the choice."""
    seen = visit("pictured")
    shown = seen.page.locator(".detail:not([hidden]) details.words", has_text="By module")
    shown.locator("summary").click()
    shown.locator("a[data-module='stages.1']").click()
    assert seen.page.locator("#module").input_value() == "=stages.1"
    assert seen.page.locator("#count").inner_text() == "16 of 40 tensors"
    seen.page.locator("#module").select_option("=stages.1.blocks.5")
    assert seen.page.locator("#count").inner_text() == "4 of 40 tensors"


def test_columns_are_chosen(visit: Opening) -> None:
    """A column that is ticked appears, one that is not goes, and the tensor's name stays."""
    seen = visit("pictured")
    seen.page.locator(".menu summary").click()
    seen.page.get_by_role("checkbox", name="Source").check()
    seen.page.get_by_role("checkbox", name="Floor", exact=True).uncheck()
    heads = seen.texts("#table thead th")
    assert "Source" in heads
    assert "Floor" not in heads
    assert seen.texts("#table tbody .c-source")[0] == "model.py:10"
    assert seen.page.get_by_role("checkbox", name="Tensor").is_disabled()


def test_a_heading_sorts(visit: Opening) -> None:
    """A click on a figure's heading puts the largest first, another the smallest, and says so to screen readers."""
    seen = visit("pictured")
    head = seen.page.locator("#table th.c-share")
    head.locator("button").click()
    assert tensors(seen)[0] == FIRST
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").press("Enter")
    assert tensors(seen)[0] == "/layer2/Conv_19_output_0"
    assert head.get_attribute("aria-sort") == "ascending"


def downloaded(seen: Visit, path: Path) -> list[dict[str, str]]:
    """What "Download CSV" gives, and that its name is not the one of the file with everything."""
    with seen.page.expect_download() as download:
        seen.page.locator("#download").click()
    assert download.value.suggested_filename == "cnn-shown-rows.csv"
    download.value.save_as(path)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_is_downloaded_as_shown(visit: Opening, tmp_path: Path) -> None:
    """The CSV holds the rows that the filters leave, and no cell that a spreadsheet would run."""
    seen = visit("hostile")
    rows = downloaded(seen, tmp_path / "all.csv")
    assert len(rows) == len(samples.HOSTILE)
    assert "'=HYPERLINK(\"http://example.org\")" in [row["tensor"] for row in rows]
    seen.page.locator("#search").fill("emoji")
    assert [row["tensor"] for row in downloaded(seen, tmp_path / "one.csv")] == ["emoji 🧪👩‍🔬"]


@pytest.mark.parametrize("name", ["pictured", "nonfinite"])
def test_a_download_agrees_with_the_file_of_all_layers(visit: Opening, tmp_path: Path, name: str) -> None:
    """Its columns are some of those of layers.csv, in their order, and say the same, with fewer digits."""
    everything = list(csv.DictReader(io.StringIO(write_csv(samples.EVERY[name]))))
    rows = downloaded(visit(name), tmp_path / "shown.csv")
    full = [row for row in everything if row["target"] == rows[0]["target"]]
    assert list(rows[0]) == [column for column in COLUMNS if column in rows[0]]
    assert {"local_rel_l2", "local_over_floor", "accumulated_rel_l2", "passed", "origin", "share"} <= set(rows[0])
    assert len(rows) == len(full)
    for row, same in zip(rows, full, strict=True):
        for column, text in row.items():
            if text != same[column]:
                assert float(text) == pytest.approx(float(same[column]), rel=1e-4, nan_ok=True), column


def test_keys_move_the_selection(visit: Opening) -> None:
    """Arrow keys, page keys, Home and End move through the table, and what is chosen is announced."""
    seen = visit("pictured")
    seen.page.locator("#scroller").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowUp"):
        seen.page.keyboard.press(key)
    assert seen.texts("#layer h3") == ["/layer0/Conv_0_output_0"]
    seen.page.keyboard.press("End")
    assert seen.texts("#layer h3") == ["/layer4/Gemm_39_output_0"]
    assert seen.texts("#table tr[aria-current] .c-tensor") == ["/layer4/Gemm_39_output_0"]
    assert "/layer4/Gemm_39_output_0" in (seen.page.locator("#layer-said").text_content() or "")


def test_a_layers_page_shows_it_whole(visit: Opening) -> None:
    """Distributions, the format's range and clipping, worst elements, operands, neighbours and other targets."""
    seen = visit("pictured").drawn()
    seen.page.locator("a[data-first]").first.click()
    assert seen.texts("#layer h3") == [FIRST]
    seen.page.wait_for_selector("#values-plot .bars path")
    seen.page.wait_for_selector("#error-plot .bars path")
    assert seen.page.locator("#values-plot .shapelayer path").count() == 2
    said = seen.page.locator("#layer").inner_text()
    for text in ("int8: -2.56 to 2.54, steps of 0.02, zero at 0, 1.1% clipped", "(the largest of 64 scales)",
                 "</script>weight", "Worst elements", "On other targets", "pytorch:int8"):
        assert text in said
    assert seen.page.locator(".around .box").count() == 9
    assert "and 6 more" in seen.page.locator(".around").text_content()
    seen.page.locator(".around a").first.click()
    assert seen.texts("#layer h3") == ["/layer1/Gemm_15_output_0"]


def test_a_tensor_that_is_not_finite_has_a_page(visit: Opening) -> None:
    """NaN and infinity among the worst elements are written out, and nothing but zeros is still drawn."""
    seen = visit("pictured").drawn()
    seen.page.evaluate("select(18)")
    seen.page.wait_for_selector("#values-plot .bars path")
    said = seen.page.locator("#layer").inner_text()
    assert "NaN" in said
    assert "−∞" in said


def click(seen: Visit, figure: str, across: float, down: float) -> None:
    """Click in a figure, at parts of its width and height."""
    area = seen.page.locator(f"{figure} .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    seen.page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])


def test_a_click_in_a_figure_leads_to_the_layer(visit: Opening) -> None:
    """The error along the network and the shares each lead to the layer under the pointer."""
    seen = visit("pictured").drawn()
    click(seen, "#plot", 0.5, 0.5)
    assert re.search(r"_\d+_output_0", seen.texts("#layer h3")[0])
    click(seen, "[data-candidate='1'] [data-plot='shares']", 0.5, 0.06)
    assert seen.texts("#layer h3") == [FIRST]


def test_the_map_leads_to_another_target(visit: Opening) -> None:
    """A click in the map chooses the target of its row and the layer of its column."""
    seen = visit("pictured").drawn()
    click(seen, "#map-plot", 0.01, 0.1)
    assert seen.page.locator("#target").input_value() == "0"
    assert seen.texts("#layer h3") == ["/layer0/Conv_0_output_0"]
    seen.page.locator("#map-figure").select_option("local")
    assert seen.texts("#map-high") != ["–"]


def shown(seen: Visit) -> tuple[str, str, list[str], list[str]]:
    """The address after the file's, the target that is chosen, the one whose section stands, and the layer's page."""
    return (str(seen.page.evaluate("location.hash")), seen.page.locator("#target").input_value(),
            [str(each.get_attribute("data-candidate")) for each in seen.page.locator(".detail").all()
             if each.is_visible()], seen.texts("#layer h3"))


def test_the_address_and_the_section_agree(visit: Opening) -> None:
    """A link to a target, the choice of one, and a layer that is opened each survive Back, Forward and a reload."""
    seen = visit("pictured").drawn()
    page = seen.page
    page.locator("a[data-candidate='3']").first.click()
    nothing: list[str] = []
    target = ("#target-3", "3", ["3"], nothing)
    assert shown(seen) == target
    page.reload()
    assert shown(seen) == target
    page.locator(".detail[data-candidate='3'] a[data-first]").click()
    layer = (f"#target-3/{quote(FIRST, safe='')}", "3", ["3"], [FIRST])
    assert shown(seen) == layer
    page.reload()
    seen.drawn()
    assert shown(seen) == layer
    assert abs(page.locator("#layers").bounding_box()["y"]) < 2  # where the layer is, not where the page was scrolled
    page.locator("#target").select_option("0")
    assert shown(seen) == ("#target-0", "0", ["0"], [])
    for expected in (layer, target, ("", "1", ["1"], [])):
        page.go_back()
        page.wait_for_function("wanted => document.querySelector('#target').value === wanted", arg=expected[1])
        assert shown(seen) == expected
    page.go_forward()
    page.wait_for_function("() => document.querySelector('#target').value === '3'")
    assert shown(seen) == target
    seen.asked[:] = seen.asked[:1]  # reloads ask for the file again


def test_any_layer_has_an_address(visit: Opening) -> None:
    """A row that is clicked or moved to stands in the address, whatever its name; nonsense in it is no layer."""
    seen = visit("hostile findings").drawn()
    seen.page.locator("#table tbody tr:not(.gap)").nth(2).click()
    assert shown(seen)[0] == f"#target-0/{quote(samples.HOSTILE[2], safe='!*()~')}".replace("%27", "'")
    seen.page.locator("#scroller").press("ArrowUp")
    seen.page.wait_for_function("() => location.hash.includes('onerror')")
    assert shown(seen)[3] == [samples.HOSTILE[1]]
    for nonsense in ("#target-7", "#target-0/%E0%A4%A", "#nowhere"):
        seen.page.evaluate("hash => { location.hash = hash; }", nonsense)
        assert shown(seen)[1:3] == ("0", ["0"])


def test_ten_thousand_layers_of_four_targets(visit: Opening, tmp_path: Path) -> None:
    """The file keeps to 12 MB, only the rows in sight are drawn, the last can be reached, and search finds one."""
    path = tmp_path / "large.html"
    path.write_text(render(large(10_000, 4)), encoding="utf-8")
    assert path.stat().st_size <= 12e6
    seen = visit(path).drawn()
    rows = seen.page.locator("#table tbody tr:not(.gap)")
    assert 20 <= rows.count() <= 100
    seen.page.locator("#scroller").evaluate("each => { each.scrollTop = each.scrollHeight; }")
    seen.page.get_by_text("/model/block1111/9999_output_0", exact=True).wait_for()
    assert rows.count() <= 100
    seen.page.locator("#search").fill("block777/")
    assert seen.texts("#count") == ["9 of 10,000 tensors"]
