"""The page as a person meets it: by mouse, by keyboard, by a screen reader, at two widths."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.serving.recommender import Recommender

pytest.importorskip("fastapi", reason="the service needs fastapi: extra serve")

RESULTS = "#results > li"
TITLES = "#results h3"


@pytest.fixture(scope="module")
def address(serve, item_run) -> str:
    """A model that generates IDs."""
    return serve(item_run)


def ready(page) -> None:
    """Wait until what was asked for last is shown."""
    page.wait_for_selector("#results:not([aria-busy])", state="attached")


def opened(visit, address, width=1400, **options):
    found = visit(address, width, **options)
    ready(found.page)
    return found


def shown(page) -> list[str]:
    return page.locator(TITLES).all_inner_texts()


def history(page) -> list[str]:
    """The titles of the history, oldest first."""
    return page.locator("#history bdi").all_inner_texts()[::-1]


def test_two_clicks_bring_recommendations(visit, address):
    found = opened(visit, address)
    page = found.page
    assert page.inner_text("#results-heading") == "What is popular"
    wanted = []
    for _ in range(2):
        wanted += shown(page)[:1]
        page.locator(RESULTS).first.get_by_role("button", name="Add").click()
        ready(page)
    assert page.inner_text("#results-heading") == "Recommendations"
    assert history(page) == wanted
    assert len(shown(page)) == 10
    assert not set(wanted) & set(shown(page))
    assert page.locator(f"{RESULTS} .code").count() >= 20
    assert page.locator(f"{RESULTS} .why").count() == 10
    assert found.errors == []
    assert {url.split("/v1")[0].split("static")[0] for url in found.requests} == {
        address,
        address[:-1],
    }


def test_results_are_those_of_the_recommender(visit, address, item_run, data):
    page = opened(visit, address).page
    page.get_by_role("button", name="Random user").click()
    ready(page)
    keys = [title.removeprefix("title ") for title in history(page)]
    user = page.inner_text("#owner").removeprefix("User ")
    recommender = Recommender.from_pretrained(item_run, data=data)
    expected = recommender.recommend(keys, k=10)
    assert shown(page) == expected.titles
    row = list(data.user_keys).index(user)
    begin, cut = int(data.sequence_offsets[row]), int(data.valid_ends[row])
    assert keys == [data.item_keys[item] for item in data.sequence_items[begin:cut]]
    page.locator("summary").click()
    page.select_option("#count", "50")
    ready(page)
    taken = data.item_titles[int(data.sequence_items[cut])]
    marked = page.locator(f"{RESULTS}.taken")
    assert marked.locator("h3").all_inner_texts() == [taken]
    assert "Taken next" in marked.inner_text()
    rank = shown(page).index(taken) + 1
    assert page.inner_text("#next") == f"Took next: {taken}, rank {rank} below"


def test_the_prefix_that_is_shared_is_marked(visit, address, item_run, data):
    page = opened(visit, address).page
    page.get_by_role("button", name="Random user").click()
    ready(page)
    table = np.array(Recommender.from_pretrained(item_run, data=data)._shelf.catalogue.codes)
    row_of = {title: row for row, title in enumerate(data.item_titles)}
    for line in page.locator(RESULTS).all():
        codes = table[row_of[line.locator("h3").inner_text()]]
        assert [int(code) for code in line.locator(".code").all_inner_texts()] == codes.tolist()
        title = line.locator(".why bdi").inner_text()
        line.hover()
        assert page.locator("#history .pointed").all_inner_texts() == [f"{title}\n×"]
        nearest = table[row_of[title]]
        shared = int((codes == nearest).cumprod().sum())
        assert line.locator(".code.shared").count() == shared
        others = table[[row_of[title] for title in history(page)]]
        assert shared == (codes == others).cumprod(axis=1).sum(axis=1).max()


def test_keyboard_alone_leads_through(visit, address):
    found = opened(visit, address)
    page, press = found.page, found.page.keyboard.press
    focused = "document.activeElement.id || document.activeElement.innerText"
    press("Tab")
    assert page.evaluate(focused) == "Skip to the recommendations"
    press("Tab")
    assert page.evaluate(focused) == "history-search"
    assert page.get_by_label("Add items by title").evaluate("field => field.id") == "history-search"
    page.keyboard.type("title a")
    page.wait_for_selector("#history-found [role=option]")
    assert page.get_attribute("#history-search", "aria-expanded") == "true"
    press("ArrowDown")
    press("ArrowDown")
    press("Enter")
    active = page.get_attribute("#history-search", "aria-activedescendant")
    chosen = page.locator(f"#{active}")
    assert chosen.get_attribute("aria-selected") == "true"
    title = chosen.locator("bdi").inner_text()
    press("ArrowDown")
    press("Enter")
    ready(page)
    assert history(page)[0] == title
    assert len(history(page)) == 2
    press("Enter")  # takes the tick away again
    ready(page)
    assert history(page) == [title]
    press("Escape")
    assert page.get_attribute("#history-search", "aria-expanded") == "false"
    assert page.locator("#history-found").is_hidden()
    press("ArrowDown")
    page.wait_for_selector("#history-found [role=option]")
    press("Tab")  # past the list, which closes
    assert page.evaluate(focused) == "random"
    assert page.locator("#history-found").is_hidden()
    press("Shift+Tab")
    press("Shift+Tab")
    press("Enter")  # the link that skips
    assert page.evaluate(focused) == "results-heading"
    press("Tab")
    added = shown(page)[0]
    press("Enter")
    ready(page)
    assert history(page) == [title, added]
    assert page.evaluate(focused) == "Add"  # still among the results, at the same place
    for _ in range(20):
        if page.evaluate("document.activeElement.closest('#history') !== null"):
            break
        press("Shift+Tab")
    for _ in range(2):
        press("Enter")
        ready(page)
    assert history(page) == []
    assert page.evaluate(focused) == "history-search"
    press("Tab")
    press("Enter")  # a random user
    ready(page)
    press("Tab")
    assert page.evaluate(focused) == "clear"
    press("Enter")
    ready(page)
    assert history(page) == []
    assert page.evaluate(focused) == "random"
    assert found.errors == []


def test_filters(visit, address):
    page = opened(visit, address).page
    first = shown(page)[0]
    page.locator(RESULTS).first.get_by_role("button", name="Hide").click()
    ready(page)
    assert first not in shown(page)
    page.locator("summary").click()
    assert page.inner_text("#filters-on") == "(1 set)"
    page.get_by_role("combobox", name="Show only").fill("title b")
    page.get_by_role("option", name="All 8 found").click()
    ready(page)
    assert {title[:7] for title in shown(page)} == {"title b"}
    page.get_by_role("option", name="title b3 b3").click()  # its tick goes
    ready(page)
    assert "title b3" not in shown(page)
    page.locator(RESULTS).first.get_by_role("button", name="Add").click()
    ready(page)
    (picked,) = history(page)
    assert picked not in shown(page)
    page.get_by_label("Leave out what the history holds").uncheck()
    ready(page)
    assert picked in shown(page)
    page.get_by_role("button", name="Reset filters").click()
    ready(page)
    assert picked not in shown(page)
    assert len(shown(page)) == 10
    assert page.inner_text("#filters-on") == ""


def test_nothing_is_left(visit, address):
    page = opened(visit, address).page
    page.locator("summary").click()
    page.fill("#allow-search", "title c1")
    page.get_by_role("option", name="title c1").first.click()
    ready(page)
    page.locator(RESULTS).first.get_by_role("button", name="Add").click()
    ready(page)
    assert shown(page) == []
    assert page.inner_text("#status") == "Nothing is left to show: loosen the filters."
    page.get_by_role("combobox", name="Never show").fill("no such title")
    page.wait_for_selector("#exclude-found li")
    assert page.inner_text("#exclude-found") == "Nothing found"


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "<b>bold</b> &amp; \"quoted\" 'too'",
    "javascript:alert(3)",
    "\u202ereversed \u2066isolated",
    "",
    "W" * 90,
    "{{7*7}} ${7*7}",
]


@pytest.mark.parametrize("width", [400, 1400])
def test_hostile_titles_are_text(visit, serve, write_data, write_sasrec, tmp_path, width):
    keys = [f"k{place}" for place in range(len(HOSTILE) - 1)] + ["<i>key</i>"]
    walks = [np.arange(len(HOSTILE))] * 3
    data = write_data(tmp_path / "data", keys, None, walks, HOSTILE)
    found = opened(visit, serve(write_sasrec(tmp_path / "run", data)), width)
    page = found.page
    page.get_by_role("button", name="Random user").click()
    page.locator("summary").click()
    page.get_by_label("Leave out what the history holds").uncheck()
    ready(page)
    texts = "all => all.map(each => each.textContent)"
    wanted = [title or key for key, title in zip(keys, HOSTILE, strict=True)]
    assert page.locator("#history bdi").evaluate_all(texts) == wanted[-2::-1]
    assert sorted(page.locator(TITLES).evaluate_all(texts)) == sorted(wanted)
    page.fill("#history-search", "alert")
    page.wait_for_selector("#history-found [role=option]")
    assert set(page.locator("#history-found bdi").evaluate_all(texts)) < set(wanted)
    assert page.locator("main :is(img, script, b, i)").count() == 0
    cut = "all => all.filter(each => each.scrollWidth > each.clientWidth).length"
    assert page.locator("h3, .picked:visible, .why").evaluate_all(cut) == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert found.errors == []


def test_a_model_without_codes(visit, serve, sasrec_run):
    page = opened(visit, serve(sasrec_run)).page
    page.get_by_role("button", name="Random user").click()
    ready(page)
    assert page.locator(".codes").count() == 0
    assert len(shown(page)) == 10
    assert page.locator(".why").first.inner_text().startswith("Nearest of the history: title")


def test_a_model_that_knows_users(visit, serve, user_run):
    found = opened(visit, serve(user_run))
    page = found.page
    page.locator(RESULTS).first.get_by_role("button", name="Add").click()
    ready(page)
    assert page.inner_text("#results-heading") == "Recommendations"
    assert len(shown(page)) == 10
    page.get_by_role("button", name="Random user").click()
    ready(page)
    assert len(shown(page)) == 10
    assert found.errors == []


def test_no_data_set_no_random_user(visit, serve, write_data, write_sasrec, tmp_path):
    data = write_data(tmp_path / "data", ["a", "b"], None, [[0, 1, 1]])
    run = write_sasrec(tmp_path / "run", data)
    data.path.rename(tmp_path / "elsewhere")
    page = opened(visit, serve(run)).page
    page.wait_for_selector("#about:not(:empty)")
    assert page.get_by_role("button", name="Random user").count() == 0
    assert shown(page) == ["b", "a"]


def test_no_button_where_users_are_not_shown(visit, serve, run):
    page = opened(visit, serve(run, random_user=False)).page
    page.wait_for_selector("#about:not(:empty)")
    assert page.get_by_role("button", name="Random user").count() == 0


def test_what_is_refused_is_said(visit, address):
    page = opened(visit, address).page
    refusal = {"error": {"message": "<b>users</b> must be known"}}
    page.route("**/v1/users/random", lambda route: route.fulfill(status=404, json=refusal))
    page.get_by_role("button", name="Random user").click()
    page.wait_for_selector("#error:not(:empty)")
    assert page.inner_text("#error") == "<b>users</b> must be known"  # nothing to try again
    page.locator(RESULTS).first.get_by_role("button", name="Add").click()
    ready(page)
    assert page.inner_text("#error") == ""


def test_a_busy_service_is_asked_again(visit, address):
    page = opened(visit, address).page
    calls = []

    def busy(route):
        calls.append(route)
        if len(calls) == 1:
            route.fulfill(
                status=503, headers={"Retry-After": "1"}, json={"error": {"message": "busy"}}
            )
        else:
            route.continue_()

    page.route("**/v1/recommend", busy)
    page.locator(RESULTS).first.get_by_role("button", name="Add").click()
    page.wait_for_selector("#results-heading:text-is('Recommendations')")
    assert len(calls) == 2
    assert page.inner_text("#error") == ""


def test_a_service_that_is_gone(visit, address):
    page = opened(visit, address).page
    page.route("**/v1/**", lambda route: route.abort())
    before = shown(page)
    page.locator(RESULTS).first.get_by_role("button", name="Add").click()
    page.wait_for_selector("#error:not(:empty)")
    assert "does not answer" in page.inner_text("#error")
    assert shown(page) == before
    page.fill("#history-search", "title")
    page.wait_for_selector("#history-found li")
    assert "does not answer" in page.inner_text("#history-found")
    page.unroute("**/v1/**")
    page.get_by_role("button", name="Try again").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#results-heading:text-is('Recommendations')")
    ready(page)
    assert page.evaluate("document.activeElement.id") == "results-heading"
    assert page.inner_text("#error") == ""


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1400, "light")])
def test_axe_finds_no_serious_fault(visit, address, width, scheme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe: extra dev"
    )
    found = opened(visit, address, width, color_scheme=scheme, reduced_motion="reduce")
    page = found.page

    def faults() -> list[str]:
        result = axe.Axe().run(page).response
        assert len(result["passes"]) > 20
        return [
            f"{fault['id']}: {node['html']}"
            for fault in result["violations"]
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]

    assert faults() == []
    page.get_by_role("button", name="Random user").click()
    page.locator("summary").click()
    page.select_option("#count", "50")
    page.locator(RESULTS).last.get_by_role("button", name="Hide").click()
    ready(page)
    page.fill("#allow-search", "title a")
    page.wait_for_selector("#allow-found [role=option]")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    ready(page)
    assert faults() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
