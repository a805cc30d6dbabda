"""All that a bar says, in each language: complete, compiled, and told to the page."""

from __future__ import annotations

import gettext
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.template import Context, Template
from django.utils import translation
from playwright.sync_api import Page, expect

from dramatiq_progress import texts
from dramatiq_progress.texts import CONTEXT, TEXTS, page_texts, translate, translate_result
from tests.bars import HEAD, OpenBar, answer, expect_state, part
from tests.scripted_site import ScriptedSite
from tools import messages

LANGUAGES = sorted(path.parent.parent for path in messages.LOCALE.glob("*/LC_MESSAGES/django.po"))


def meta() -> str:
    """What the script tag tells the page in the active language."""
    html = Template("{% load dramatiq_progress %}{% dramatiq_progress_script %}").render(Context())
    return html.partition("<link")[0]


def places(text: str) -> set[str]:
    return set(re.findall(r"{\w+}", text))


def test_german_and_spanish_are_shipped() -> None:
    assert [path.name for path in LANGUAGES] == ["de", "es"]


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda path: path.name)
def test_every_text_has_its_translation(language: Path) -> None:
    """Else: run `make messages`, and fill in what it names."""
    catalog = messages.read(language / "LC_MESSAGES" / "django.po")
    said = {message.id: str(message.string) for message in catalog if message.id}
    assert set(said) == {message.id for message in messages.template() if message.id}
    assert all(said.values())
    assert [text for text in said if places(text) != places(said[text])] == []
    assert not any(message.fuzzy for message in catalog if message.id)


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda path: path.name)
def test_what_is_compiled_is_what_is_written(language: Path) -> None:
    """Else: run `make messages`."""
    written = messages.read(language / "LC_MESSAGES" / "django.po")
    with (language / "LC_MESSAGES" / "django.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for message in written:
        if message.id:
            assert compiled.pgettext(CONTEXT, message.id) == message.string


def test_the_english_is_the_module_s(site: ScriptedSite, page: Page) -> None:
    site.html = "<!doctype html><title>Texts</title>"
    page.goto(site.url)
    said = page.evaluate("import('/static/dramatiq_progress/dramatiq-progress.js').then(({ TEXTS }) => TEXTS)")
    assert said == TEXTS | {"locale": "en", "results": []}


@pytest.mark.parametrize("language", ["en", "en-us", "fr", "ar", None])
def test_a_page_whose_language_is_the_module_s_or_unknown_tells_it_nothing(language: str | None) -> None:
    with translation.override(language):
        assert page_texts() == {}
        assert meta() == ""


@pytest.mark.parametrize(("language", "told"), [("en-in", {"locale": "en-in"}), ("en-abc", {}), ("en-1", {})])
def test_a_page_in_another_english_has_its_numbers(language: str, told: dict[str, str]) -> None:
    """Unless a browser would not take it for a locale: then it threw an error at each number."""
    with translation.override(language):
        assert page_texts() == told


def test_a_language_of_a_project_s_own_has_its_texts_and_english_numbers(settings: Any, tmp_path: Path) -> None:
    own_locale(settings, tmp_path, "dothraki-sea", {"Done": "Hash"})
    with translation.override("dothraki-sea"):
        assert page_texts() == {"done": "Hash"}


@pytest.mark.parametrize("language", ["de", "de-at", "es-mx"])
def test_a_dialect_has_its_language_s_texts_and_its_own_numbers(language: str) -> None:
    with translation.override(language):
        assert page_texts()["locale"] == language
        assert page_texts()["done"] == {"de": "Fertig", "es": "Terminado"}[language[:2]]


def test_what_a_page_is_told_is_once_and_small() -> None:
    with translation.override("de"):
        told = meta()
    assert len(told.encode()) < 1900
    assert told.count("<meta") == 1


class _Attributes(HTMLParser):
    found: dict[str, str | None]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found = dict(attributes)


def test_a_translation_is_text_in_the_page_whatever_is_in_it(settings: Any, tmp_path: Path) -> None:
    """A project overrides our texts by a directory in LOCALE_PATHS, in English too."""
    said = "It's \"all\" <there> &amp; more'>"
    own_locale(settings, tmp_path, "en", {"Done": said})
    parser = _Attributes()
    with translation.override("en"):
        parser.feed(meta())
        assert page_texts() == {"done": said}
    content = parser.found.pop("content")
    assert content
    assert json.loads(content) == {"done": said}
    assert parser.found == {"name": "dramatiq-progress-texts"}


def own_locale(settings: Any, folder: Path, language: str, said: dict[str, str]) -> None:
    """A project's own directory of translations, as the documentation shows it."""
    path = folder / translation.to_locale(language) / "LC_MESSAGES" / "django.po"
    path.parent.mkdir(parents=True)
    catalog = messages.Catalog()
    for english, text in said.items():
        catalog.add(english, text, context=CONTEXT)
    messages.write(path, catalog)
    settings.LOCALE_PATHS = [folder]


# ---- In a page ----

GIVEN_UP = texts.RESULTS[-1]


def open_in(language: str, open_bar: OpenBar, attributes: str = "") -> Any:
    with translation.override(language):
        return open_bar(attributes, head=meta())


@pytest.mark.parametrize(
    ("language", "said", "text"),
    [
        ("de", answer("running"), "1.200 von 5.000. Importing"),
        ("de", answer("running", current=0.5, total=4), "0,5 von 4. Importing"),
        ("de", answer("enqueued", extra={"queue_position": 3, "queue_length": 12}), None),
        (
            "de",
            answer("retrying", retry_in=9),
            "Fehlgeschlagen; noch 9 Sekunden bis zum nächsten Versuch (Versuch 2)",
        ),
        ("de", answer("failed"), "Die Aufgabe ist fehlgeschlagen."),
        ("de", answer("failed", result="The task failed."), "Die Aufgabe ist fehlgeschlagen."),
        ("de", answer("failed", result=GIVEN_UP), None),
        ("de", answer("failed", result="Zeile 7 hat keinen Code."), "Zeile 7 hat keinen Code."),
        ("de", answer("failed", result="constructor"), "constructor"),
        ("es", answer("skipped", result="The task was skipped."), "La tarea se ha omitido."),
        ("es", answer("retrying", retry_in=3600), "Ha fallado; nuevo intento dentro de 60 minutos (intento 2)"),
    ],
)
def test_a_bar_speaks_the_language_of_its_page(
    open_bar: OpenBar, site: ScriptedSite, language: str, said: dict[str, Any], text: str | None
) -> None:
    site.say(said)
    bar = open_in(language, open_bar)
    expect_state(bar, said["state"])
    with translation.override(language):
        place = {"position": 3, "length": 12}
        expected = text or translate_result(said.get("result")) or translate(TEXTS["position"]).format(**place)
    expect(part(bar, "text")).to_have_text(expected)


@pytest.mark.parametrize(
    ("language", "eta", "text"),
    [
        ("de", 119.3, "noch etwa 2 Minuten"),
        ("de", 0.4, "noch etwa 1 Sekunde"),
        ("es", 60, "tiempo restante aproximado: 60 segundos"),
        ("es", 7200, "tiempo restante aproximado: 2 horas"),
    ],
)
def test_durations_are_said_as_people_say_them(
    open_bar: OpenBar, site: ScriptedSite, language: str, eta: float, text: str
) -> None:
    site.say(answer("running", extra={"eta": eta}))
    bar = open_in(language, open_bar)
    expect(part(bar, "remaining")).to_have_text(text)
    expect(part(bar, "percent")).to_have_text("24\N{NO-BREAK SPACE}%")


def test_results_are_said_in_the_language_of_the_page(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.say(answer("done", result={"Zeilen": 20000, "vollständig": True}))
    bar = open_in("de", open_bar, "show-result")
    expect(part(bar, "note")).to_have_text("Zeilen: 20.000, vollständig: ja")


def test_attributes_and_scripts_of_a_page_have_the_last_word(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    """Also where they come before the first bar."""
    site.say(answer("done"))
    with translation.override("de"):
        site.html = f"{HEAD}{meta()}<body>"
    page.goto(site.url)
    page.evaluate(
        """async () => {
          const { TEXTS } = await import("/static/dramatiq_progress/dramatiq-progress.js");
          Object.assign(TEXTS, { done: "Alles da" });
          const bar = '<dramatiq-progress src="/progress/m1/"';
          document.body.innerHTML = `${bar}></dramatiq-progress>${bar} text-done="Geschafft"></dramatiq-progress>`;
        }"""
    )
    expect(page.locator("dramatiq-progress [part=text]")).to_have_text(["Alles da", "Geschafft"])


def test_a_page_may_turn_to_another_language_while_it_lives(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    """As where Turbo replaces the head and the body of a page."""
    site.say(answer("done"))
    bar = open_in("de", open_bar)
    expect(part(bar, "text")).to_have_text("Fertig")
    with translation.override("es"):
        spanish = meta()
    for head, text in [(spanish, "Terminado"), ("", "Done")]:
        page.evaluate(
            """head => {
              document.querySelector("meta[name=dramatiq-progress-texts]").remove();
              document.head.insertAdjacentHTML("beforeend", head);
              const bar = document.querySelector("dramatiq-progress");
              bar.replaceWith(bar.cloneNode());
            }""",
            head,
        )
        expect(part(bar, "text")).to_have_text(text)
    # Nothing of the languages before stays behind.
    said = page.evaluate("import('/static/dramatiq_progress/dramatiq-progress.js').then(({ TEXTS }) => TEXTS)")
    assert said == TEXTS | {"locale": "en", "results": []}


def test_an_arabic_page_reads_from_the_right_in_a_project_s_own_words(
    open_bar: OpenBar, site: ScriptedSite, settings: Any, tmp_path: Path
) -> None:
    amount, remaining = "{current} من {total}", "بقي نحو {time}"
    own_locale(settings, tmp_path, "ar", {TEXTS["amount"]: amount, TEXTS["remaining"]: remaining})
    site.say(answer("running", description="استيراد", extra={"eta": 600}))
    bar = open_in("ar-eg", open_bar, 'dir="rtl" lang="ar"')
    expect(part(bar, "text")).to_have_text("١٬٢٠٠ من ٥٬٠٠٠. استيراد")
    expect(part(bar, "remaining")).to_have_text("بقي نحو ١٠ دقائق")
    assert part(bar, "text").evaluate("text => text.getBoundingClientRect().right") == part(bar, "line").evaluate(
        "line => line.getBoundingClientRect().right"
    )
