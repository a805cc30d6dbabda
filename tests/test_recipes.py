"""The code of docs/pages.md, unchanged, with the real libraries in a real browser."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from django.template.loader import render_to_string
from playwright.sync_api import Locator, Page, Request, expect

from dramatiq_progress import State
from dramatiq_progress.stores import Store
from tests import npm
from tests.bars import expect_state, part
from tests.django_site import ServeShop
from tests.servers import ROOT
from tests.streaming_site import begin, report
from tools.static_files import ESBUILD

HTMX = {"htmx2": "htmx.org@2.0.11", "htmx4": "htmx.org@4.0.1"}
PACKAGES = [
    *(f"{name}@npm:{package}" for name, package in HTMX.items()),
    "idiomorph@0.8.0",
    "react@19.3.1",
    "react-dom@19.3.1",
    ESBUILD,
]

ROUTES = {"start": "start/", "import": "import/<str:message_id>/"}
HOME = "def home(request):\n    return render(request, 'home.html')\n"


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the npm packages."""
    return npm.install("@hotwired/turbo@8.0.23", tmp_path_factory.mktemp("npm"), *PACKAGES).parents[1]


def recipe(section: str) -> dict[str, str]:
    """Return the code blocks of a section by file name, which is in the first line of each."""
    text = (ROOT / "docs" / "pages.md").read_text()
    body = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```\w+\n(.*?)```", body, re.DOTALL)
    return {re.findall(r"[\w.]+\.\w+", block.partition("\n")[0])[0]: block for block in blocks}


def serve_library(page: Page, path: str, file: Path) -> None:
    """Serve a library at the path where the page expects it."""
    page.route(f"**/static/{path}", lambda route: route.fulfill(path=file, content_type="text/javascript"))


class Requests:
    """The paths that a page has requested."""

    def __init__(self, page: Page) -> None:
        self.paths: list[str] = []
        page.on("request", self._record)

    def _record(self, request: Request) -> None:
        self.paths.append("/" + request.url.split("/", 3)[3])

    def settle(self, page: Page) -> int:
        """Wait until all requests have been sent, and return the number of those for progress."""
        page.evaluate("fetch('/after-all-others/')")
        return len([path for path in self.paths if path.startswith("/progress/")])


def bar_of(page: Page) -> Locator:
    return page.locator("dramatiq-progress")


def id_of(bar: Locator) -> str:
    """Return the id of the bar's message."""
    return str(bar.get_attribute("src")).split("/")[2]


def post(page: Page, url: str) -> None:
    """Submit a form like the one that the recipe leaves out."""
    page.goto(f"{url}/progress/")
    page.evaluate(
        "document.body.innerHTML = '<form method=post action=/start/><input name=path>'; document.forms[0].submit()"
    )
    page.wait_for_url("**/import/*/")


def test_plain_django(serve_shop: ServeShop, memory_store: Store, page: Page) -> None:
    code = recipe("Plain Django")
    url = serve_shop(code["views.py"], code["urls.py"], code)
    page.goto(url)
    page.get_by_label("File").fill("people.csv")
    page.get_by_role("button", name="Import").click()
    page.wait_for_url("**/import/*/")
    bar = bar_of(page)
    expect_state(bar, "enqueued")
    attempt = begin(memory_store, id_of(bar))
    expect_state(bar, "running")
    report(memory_store, attempt, 2500)
    page.reload()
    expect(bar.get_by_role("progressbar", name="Import")).to_have_attribute("aria-valuenow", "25")
    memory_store.finish(attempt, state=State.DONE, fields={"result": '"All there"'})
    expect(part(bar, "text")).to_have_text("All there")


@pytest.mark.parametrize("version", HTMX)
def test_htmx(serve_shop: ServeShop, memory_store: Store, page: Page, modules: Path, version: str) -> None:
    code = recipe("htmx")
    addresses = {"shop": "", "start": "start/", "rows": "rows/"}
    url = serve_shop(code["views.py"], addresses, {**code, "rows.html": "<p>Rows</p>"})
    serve_library(page, "htmx.min.js", modules / version / "dist" / "htmx.min.js")
    requests = Requests(page)
    page.goto(url)
    expect(page.get_by_text("Rows")).to_be_visible()
    bar = bar_of(page)
    for state in (State.DONE, State.FAILED):
        page.get_by_role("button", name="Import").click()
        expect_state(bar, "enqueued")
        attempt = begin(memory_store, id_of(bar))
        expect_state(bar, "running")
        memory_store.finish(attempt, state=state)
        expect_state(bar, state.value)
    settled = requests.settle(page)
    assert requests.paths.count("/rows/") == 2  # when the page is opened, and when the first import is done
    page.evaluate("document.getElementById('import').replaceChildren()")
    assert requests.settle(page) == settled


def test_htmx_settles_the_attributes_of_a_bar_with_an_id(
    serve_shop: ServeShop, memory_store: Store, page: Page, modules: Path
) -> None:
    """htmx 2 inserts new content with the attributes of the old content, and removes them a moment later."""
    code = recipe("htmx")
    code["bar.html"] = code["bar.html"].replace("label=", 'id="bar" label=')
    url = serve_shop(code["views.py"], {"shop": "", "start": "start/", "rows": "rows/"}, {**code, "rows.html": ""})
    serve_library(page, "htmx.min.js", modules / "htmx2" / "dist" / "htmx.min.js")
    page.goto(url)
    bar = bar_of(page)
    page.get_by_role("button", name="Import").click()
    expect_state(bar, "enqueued")
    first = id_of(bar)
    memory_store.finish(begin(memory_store, first), state=State.DONE)
    expect_state(bar, "done")
    page.get_by_role("button", name="Import").click()
    expect(bar).not_to_have_attribute("src", f"/progress/{first}/")
    expect(bar).not_to_have_class(re.compile("htmx"))
    expect_state(bar, "enqueued")
    expect(bar).to_have_attribute("indeterminate", "")


def test_a_morph_of_htmx_keeps_a_bar_with_an_id(
    serve_shop: ServeShop, memory_store: Store, page: Page, modules: Path
) -> None:
    code = recipe("htmx")
    morphed = (
        "{% load dramatiq_progress static %}<!doctype html><title>Morph</title>{% dramatiq_progress_script %}"
        "<script src=\"{% static 'htmx.min.js' %}\"></script><script src=\"{% static 'idiomorph-ext.js' %}\"></script>"
        '<body hx-ext="morph"><button hx-get="/" hx-target="body" hx-swap="morph:innerHTML">Again</button>'
        '<p>{% now "u" %}</p>{% dramatiq_progress "m1" id="bar" %}'
    )
    attempt = begin(memory_store)
    report(memory_store, attempt, 2500)
    url = serve_shop(code["views.py"], {"shop": ""}, {"shop.html": morphed})
    serve_library(page, "htmx.min.js", modules / "htmx2" / "dist" / "htmx.min.js")
    serve_library(page, "idiomorph-ext.js", modules / "idiomorph" / "dist" / "idiomorph-ext.js")
    page.goto(url)
    bar = bar_of(page)
    expect_state(bar, "running")
    bar.evaluate("bar => { window.first = bar }")
    stamp = page.locator("p").inner_text()
    page.get_by_role("button", name="Again").click()
    expect(page.locator("p")).not_to_have_text(stamp)
    assert bar.evaluate("bar => bar === window.first")
    expect_state(bar, "running")
    report(memory_store, attempt, 5000)
    expect(bar.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "50")


def test_turbo(serve_shop: ServeShop, memory_store: Store, page: Page, modules: Path) -> None:
    code = recipe("Turbo")
    views = recipe("Plain Django")["views.py"]
    home = (
        "{% load dramatiq_progress static %}<!doctype html><title>Home</title>{% dramatiq_progress_script %}"
        '<script type="module" src="{% static \'turbo.js\' %}"></script><body>At home'
    )
    url = serve_shop(views, {**ROUTES, "home": ""}, {**code, "home.html": home})
    serve_library(page, "turbo.js", modules / "@hotwired" / "turbo" / "dist" / "turbo.es2017-esm.js")
    requests = Requests(page)
    post(page, url)
    bar = bar_of(page)
    expect_state(bar, "enqueued")
    attempt = begin(memory_store, id_of(bar))
    report(memory_store, attempt, 2500)
    expect_state(bar, "running")
    page.evaluate("window.sameDocument = true")

    page.get_by_role("link", name="Home").click()
    expect(page.get_by_text("At home")).to_be_visible()
    left = requests.settle(page)
    page.go_back()
    expect_state(bar, "running")
    expect(bar).to_have_count(1)
    expect(bar.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "25")
    assert requests.settle(page) > left

    bar.evaluate("bar => { window.first = bar; bar.dataset.mine = 'here' }")
    page.evaluate("Turbo.session.refresh(location.href)")
    # The morph removes attributes that the server didn't write.
    expect(bar).not_to_have_attribute("data-mine", "here")
    assert bar.evaluate("bar => bar === window.first")
    expect_state(bar, "running")
    expect(bar.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "25")

    memory_store.finish(attempt, state=State.DONE, fields={"result": '"/"'})
    expect(page.get_by_text("At home")).to_be_visible()
    assert page.evaluate("window.sameDocument")


def test_a_bar_inserted_by_a_turbo_stream(
    serve_shop: ServeShop, memory_store: Store, page: Page, modules: Path
) -> None:
    code = recipe("Turbo")
    home = (
        "{% load dramatiq_progress static %}<!doctype html><title>Home</title>{% dramatiq_progress_script %}"
        '<script type="module" src="{% static \'turbo.js\' %}"></script><body><div id=imports></div>'
    )
    views = "from django.shortcuts import render\n" + HOME
    url = serve_shop(views, {"home": ""}, {**code, "home.html": home})
    serve_library(page, "turbo.js", modules / "@hotwired" / "turbo" / "dist" / "turbo.es2017-esm.js")
    attempt = begin(memory_store)
    page.goto(url)
    stream = render_to_string("bar.turbo_stream.html", {"message_id": attempt.message_id})
    page.evaluate("stream => Turbo.renderStreamMessage(stream)", stream)
    expect_state(page.locator("#imports dramatiq-progress"), "running")


REACT = """
  import { StrictMode } from "react";
  import { createRoot } from "react-dom/client";
  import { Import } from "./import.jsx";

  const root = createRoot(document.getElementById("root"));
  window.render = (messageId) => root.render(<StrictMode>{messageId && <Import messageId={messageId} />}</StrictMode>);
"""


def test_react(serve_shop: ServeShop, memory_store: Store, page: Page, modules: Path, tmp_path: Path) -> None:
    code = recipe("React")
    (tmp_path / "import.jsx").write_text(code["import.jsx"])
    (tmp_path / "page.jsx").write_text(REACT)
    (tmp_path / "node_modules").symlink_to(modules)
    bundle = tmp_path / "page.js"
    command = [str(modules / ".bin" / "esbuild"), "page.jsx", "--bundle", "--jsx=automatic", f"--outfile={bundle}"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    home = (
        "{% load dramatiq_progress static %}<!doctype html><title>React</title>{% dramatiq_progress_script %}"
        "<body><div id=root></div><script src=\"{% static 'page.js' %}\"></script>"
    )
    url = serve_shop("from django.shortcuts import render\n" + HOME, {"home": ""}, {"home.html": home})
    serve_library(page, "page.js", bundle)
    attempts = [begin(memory_store, message_id) for message_id in ("m1", "m2")]
    requests = Requests(page)
    page.goto(url)
    page.evaluate("render('m1')")
    bar = bar_of(page)
    expect_state(bar, "running")
    expect(page.get_by_text("You can leave this page.")).to_be_visible()
    bar.evaluate("bar => { window.first = bar }")
    page.evaluate("render('m2')")
    expect(bar).to_have_attribute("src", "/progress/m2/")
    assert bar.evaluate("bar => bar === window.first")
    report(memory_store, attempts[1], 5000)
    expect(bar.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "50")
    memory_store.finish(attempts[1], state=State.DONE)
    expect(page.get_by_text("Finished.")).to_be_visible()
    page.evaluate("render('m1')")
    expect_state(bar, "running")
    page.evaluate("render('')")
    expect(bar).to_have_count(0)
    settled = requests.settle(page)
    assert requests.settle(page) == settled
