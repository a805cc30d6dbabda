"""Responses in a real browser: opened as a page, and requested by another site."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from dramatiq_progress import State
from tests.store_server import Server
from tests.streaming_site import begin, report, serve

MARKUP = "</pre></script><script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\">"


def test_json_that_is_opened_as_a_page_runs_no_script(page: Page, server: Server, tmp_path: Path) -> None:
    with serve(tmp_path, server.url) as site:
        attempt = begin(site.store)
        report(site.store, attempt, 2, description=MARKUP, metadata='{"file": "<script>document.title = 1</script>"}')
        site.store.finish(attempt, state=State.DONE, fields={"result": '"<img src=x onerror=alert(1)>"'})
        for path in ("/progress/m1/", "/progress/?id=m1", "/progress/?id=<script>alert(1)</script>"):
            page.goto(site.url + path)
            expect(page.locator("img, script")).to_have_count(0)
            assert page.title() == ""


def test_another_site_can_neither_read_nor_stream(browser: Browser, server: Server, tmp_path: Path) -> None:
    # A page of its own: the errors in its console are expected.
    with serve(tmp_path, server.url) as site, closing(browser.new_page()) as page:
        begin(site.store)
        # The same server under another name is another origin.
        page.goto(site.url.replace("127.0.0.1", "localhost") + "/progress/m1/")
        seen = page.evaluate(
            """async (url) => ({
              read: await fetch(`${url}/progress/m1/`, { credentials: "include" }).then(() => true, () => false),
              received: await new Promise((resolve) => {
                const source = new EventSource(`${url}/progress/stream/?id=m1`, { withCredentials: true });
                source.onmessage = () => resolve(true);
                source.onerror = () => resolve(source.close() ?? false);
              }),
              loaded: await new Promise((resolve) => {
                const script = document.createElement("script");
                script.src = `${url}/progress/m1/`;
                script.onload = () => resolve(true);
                script.onerror = () => resolve(false);
                document.documentElement.append(script);
              }),
            })""",
            site.url,
        )
        assert seen == {"read": False, "received": False, "loaded": False}


def test_another_site_cannot_tell_whether_a_message_may_be_read(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    """A subdomain sends the visitor's cookies: by an element's events it could tell an existing message from others."""
    with serve(tmp_path, server.url) as site, closing(browser.new_page()) as page:
        begin(site.store)
        page.goto(site.url.replace("127.0.0.1", "localhost") + "/progress/m1/")
        seen = page.evaluate(
            """async (url) => {
              const elements = { object: "data", iframe: "src", embed: "src", img: "src", script: "src", video: "src" };
              const eventOf = (name, id) => new Promise((resolve) => {
                const element = document.createElement(name);
                element.onload = element.onerror = ({ type }) => resolve(type);
                element[elements[name]] = `${url}/progress/${id}/`;
                document.body.append(element);
                setTimeout(resolve, 60_000, "none");
              });
              const eventsOf = async (id) =>
                Object.fromEntries(
                  await Promise.all(Object.keys(elements).map(async (name) => [name, await eventOf(name, id)]))
                );
              return [await eventsOf("m1"), await eventsOf("gone")];
            }""",
            site.url,
        )
        assert seen[0] == seen[1]
        assert "error" in seen[0].values()
