"""The bar in Firefox and in WebKit: it shows, says and does the same as in Chromium."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import ImageOps

from dramatiq_progress import State
from dramatiq_progress.stores.attempt import Attempt
from tests.bars import HEAD, answer
from tests.engines import RECORD_COMPLAINTS, Engine
from tests.looks import LOOKS, Look
from tests.scripted_site import Reply, ScriptedSite
from tests.shown_looks import VARIANTS, difference, stripes, variants_in
from tests.store_server import Server
from tests.streaming_site import report, serve
from tests.waiting import wait_until

#: Mean difference of a pixel of the track from Chromium's, of 255: edges are smoothed differently.
TOLERANCE = 20
#: The same between a running bar's sign and its mirror image. A dot half a pixel beside the middle of its ring has 13.
LOPSIDED = 12
#: The horizontal distance of the stripes, in pixels.
STRIPE = 10
#: The only bar of a page, and its track.
BAR = """
  const bar = document.querySelector("dramatiq-progress");
  const track = bar.shadowRoot.querySelector("[role=progressbar]");
"""


@pytest.mark.slow(25)
@pytest.mark.parametrize("engine", ["firefox", "webkit"], indirect=True)
def test_the_bar_is_that_of_chromium(
    engine: Engine, in_chromium: Engine, site: ScriptedSite, server: Server, tmp_path: Path
) -> None:
    """One test, since the start of an engine takes longer than any of its parts."""
    every_look_is_that_of(in_chromium, engine)
    a_message_is_streamed_and_cancelled(engine, server, tmp_path)
    a_click_on_a_slow_link_is_no_trouble(engine, site)


def every_look_is_that_of(in_chromium: Engine, engine: Engine) -> None:
    """In words, for a screen reader, and to the eye: the sign, the fill and its color."""
    expected, seen = variants_in(in_chromium), variants_in(engine)
    for variant in VARIANTS:
        assert seen[variant].looks == expected[variant].looks
        signs = {_sign(look): expected[variant].sign(look) for look in LOOKS}
        for look in LOOKS:
            here = variant, look.name
            assert (*here, seen[variant].sign_like(look, signs)) == (*here, _sign(look))
            tracks = [each[variant].part(look, "track") for each in (expected, seen)]
            assert (*here, difference(*tracks)) < (*here, TOLERANCE)
            if _sign(look) == "running":
                sign = seen[variant].sign(look)
                assert (*here, difference(sign, ImageOps.mirror(sign))) < (*here, LOPSIDED)
            if _sign(look) == "lost":
                for each in (expected, seen):
                    fill = each[variant].part(look, "fill")
                    assert (*here, stripes(fill)) == (*here, pytest.approx(fill.width / STRIPE, abs=2))


def _sign(look: Look) -> str:
    return "lost" if look.offline else look.state


def a_message_is_streamed_and_cancelled(engine: Engine, server: Server, tmp_path: Path) -> None:
    environment = {
        "TEST_DJANGO_MIDDLEWARE": json.dumps(["django.middleware.csrf.CsrfViewMiddleware"]),
        "TEST_PROGRESS": json.dumps(
            {"CANCEL_PERMISSION": "dramatiq_progress.permissions.anyone_with_link", "LOST_AFTER": 3600}
        ),
    }
    with serve(tmp_path, server.url, **environment) as site:
        attempt = Attempt("m1", "work", "default", 3, cancellable=True)
        site.store.start(attempt)
        engine.open(f"{site.url}/import/m1/?button")
        engine.run(RECORD_COMPLAINTS)
        wait_until(lambda: site.get("/counts/")["streams"] == 1)
        report(site.store, attempt, 5000)
        wait_until(lambda: engine.run(f"{BAR} return track.ariaValueNow") == "50")
        engine.run(f"{BAR} bar.shadowRoot.querySelector('button').click()")
        wait_until(lambda: site.get("/progress/m1/")["cancel_requested"])
        wait_until(lambda: "Cancelling…" in engine.run(f"{BAR} return bar.shadowRoot.textContent"))
        site.store.finish(attempt, state=State.CANCELLED)
        wait_until(lambda: engine.run(f"{BAR} return bar.getAttribute('state')") == "cancelled")
        assert engine.run("return complaints") == []


#: Records how each request of the page ended, and whether the bar said that the connection was lost.
RECORD_REQUESTS = """
  window.ends = [];
  window.troubles = 0;
  const fetchFirst = fetch;
  window.fetch = (request) => fetchFirst(request).finally(() => ends.push(request.url));
  addEventListener("trouble", () => troubles++);
"""


def a_click_on_a_slow_link_is_no_trouble(engine: Engine, site: ScriptedSite) -> None:
    """WebKit fails all requests of a page from the click on a link until the next page is there."""
    site.reply(answer("running"))
    site.reply(Reply(text="<title>Slow</title>", held=True), path="/slow/")
    bar = '<dramatiq-progress src="/progress/m1/"></dramatiq-progress><a href="/slow/">Slow</a>'
    site.html = f"{HEAD}<script>{RECORD_REQUESTS}</script><body>{bar}"
    engine.open(site.url)
    wait_until(lambda: engine.run("return ends.length"))
    engine.run("document.querySelector('a').click(); ends.length = 0")
    # In WebKit these are failures, and the second would be told at once.
    wait_until(lambda: engine.run("return ends.length >= 3"))
    engine.run("await new Promise((resolve) => setTimeout(resolve, 0))")
    assert engine.run("return troubles") == 0
