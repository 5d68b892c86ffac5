"""The report as a person meets it: by mouse, by keyboard, by a screen reader, at two widths."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib", reason="the report needs matplotlib: extra report")

from genrec.reporting.report import Told, write_report

LOOKS = [(400, "light"), (400, "dark"), (1400, "light"), (1400, "dark")]


@pytest.fixture(scope="module")
def file(shop, tmp_path_factory):
    told = Told(users=20, choose=lambda data: [0, 9])
    out = tmp_path_factory.mktemp("report") / "report.html"
    return write_report([shop.items, shop.sasrec], out, told)


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_the_page_opens_without_a_fault(visit, file, width, scheme):
    found = visit(file, width, color_scheme=scheme)
    assert found.page.locator(".tree summary").count() == 4
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    lit = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(lit.removeprefix("rgb(").split(",")[0]) < 100) == (scheme == "dark")
    ink = found.page.evaluate("getComputedStyle(document.querySelector('.plot svg text')).fill")
    assert ink == found.page.evaluate("getComputedStyle(document.body).color")
    assert found.errors == []
    assert [url for url in found.requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in found.requests if url.startswith("file:")]) == 1


def test_the_tree_opens_by_keyboard_down_to_the_items(visit, file, shop):
    page = visit(file).page
    summary = page.locator(".tree summary").first
    empty = ".tree details[open] > summary:only-child"
    summary.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(empty, state="detached")
    below = page.locator(".tree > ul > li").first.locator("> details > ul > li")
    assert below.count() >= 2
    while page.locator(".tree details:not([open]) > summary").count():
        page.locator(".tree details:not([open]) > summary").first.focus()
        page.keyboard.press("Space")
        page.wait_for_selector(empty, state="detached")
    items = page.locator(".tree .item").all_inner_texts()
    assert len(items) == shop.data.num_items
    shown = " ".join(" ".join(items).split())
    titles = [
        title or key for title, key in zip(shop.data.item_titles, shop.data.item_keys, strict=True)
    ]
    assert [title for title in titles if " ".join(title.split()) not in shown] == []


def test_the_map_names_the_item_under_the_pointer(visit, file, shop):
    page = visit(file).page
    canvas = page.locator(".map canvas")
    canvas.scroll_into_view_if_needed()
    place = page.evaluate(
        """() => {
          const { tables, items } = JSON.parse(document.getElementById("page-data").textContent);
          const [x, y] = [tables[0].x, tables[0].y];
          // The item that lies farthest from all others.
          const gaps = x.map((_, i) => Math.min(...x.map((_, j) =>
            i === j ? Infinity : Math.hypot(x[i] - x[j], y[i] - y[j]))));
          const at = gaps.indexOf(Math.max(...gaps));
          return { x: x[at], y: y[at], title: items[tables[0].items].titles[at] };
        }"""
    )
    box = canvas.bounding_box()
    x = box["x"] + 10 + place["x"] / 1000 * (box["width"] - 20)
    y = box["y"] + 10 + (1000 - place["y"]) / 1000 * (box["height"] - 20)
    tip = page.locator(".tip")
    assert tip.is_hidden()
    page.mouse.move(x + 1, y + 1)
    assert place["title"] in tip.evaluate("tip => tip.textContent")
    page.mouse.move(box["x"] - 5, box["y"] - 5)
    assert tip.is_hidden()
    page.get_by_role("combobox", name="First code").select_option(index=1)
    assert page.locator(".map > .note").inner_text().startswith("Code ")


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1400, "light")])
def test_axe_finds_no_serious_fault(visit, file, width, scheme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe: extra dev"
    )
    page = visit(file, width, color_scheme=scheme).page
    page.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
    result = axe.Axe().run(page).response
    assert len(result["passes"]) > 20
    assert [
        f"{fault['id']}: {node['html']}"
        for fault in result["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ] == []
