"""The texts of a bar in each language: complete, compiled, and passed to the page."""

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

from dramatiq_progress import Progress, State
from dramatiq_progress.web import texts
from dramatiq_progress.web.noscript import markup
from dramatiq_progress.web.texts import CONTEXT, TEXTS, page_texts, translate, translate_result
from tests.bars import HEAD, OpenBar, answer, expect_state, part
from tests.scripted_site import ScriptedSite
from tools import messages

LANGUAGES = sorted(path.parent.parent for path in messages.LOCALE.glob("*/LC_MESSAGES/django.po"))


def meta() -> str:
    """Return the texts that the script tag passes to the page in the active language."""
    html = Template("{% load dramatiq_progress %}{% dramatiq_progress_script %}").render(Context())
    return html.partition("<link")[0]


def placeholders(text: str) -> set[str]:
    return set(re.findall(r"{\w+}", text))


def test_german_and_spanish_are_shipped() -> None:
    assert [path.name for path in LANGUAGES] == ["de", "es"]


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda path: path.name)
def test_every_text_has_a_translation(language: Path) -> None:
    """If this fails, run `make messages` and translate the texts that it prints."""
    catalog = messages.read(language / "LC_MESSAGES" / "django.po")
    translations = {message.id: str(message.string) for message in catalog if message.id}
    assert set(translations) == {message.id for message in messages.template() if message.id}
    assert all(translations.values())
    assert [text for text in translations if placeholders(text) != placeholders(translations[text])] == []
    assert not any(message.fuzzy for message in catalog if message.id)


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda path: path.name)
def test_compiled_translations_are_up_to_date(language: Path) -> None:
    """If this fails, run `make messages`."""
    written = messages.read(language / "LC_MESSAGES" / "django.po")
    with (language / "LC_MESSAGES" / "django.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for message in written:
        if message.id:
            assert compiled.pgettext(CONTEXT, message.id) == message.string


def test_english_texts_are_those_of_the_module(site: ScriptedSite, page: Page) -> None:
    site.html = "<!doctype html><title>Texts</title>"
    page.goto(site.url)
    texts_of_module = page.evaluate(
        "import('/static/dramatiq_progress/dramatiq-progress.js').then(({ TEXTS }) => TEXTS)"
    )
    assert texts_of_module == TEXTS | {"locale": "en", "results": []}


@pytest.mark.parametrize("language", ["en", "en-us", "fr", "ar", None])
def test_a_page_in_the_module_s_language_or_an_unknown_one_passes_no_texts(language: str | None) -> None:
    with translation.override(language):
        assert page_texts() == {}
        assert meta() == ""


@pytest.mark.parametrize(("language", "texts_of_page"), [("en-in", {"locale": "en-in"}), ("en-abc", {}), ("en-1", {})])
def test_a_page_in_another_english_has_its_own_numbers(language: str, texts_of_page: dict[str, str]) -> None:
    """Only if browsers accept it as a locale: otherwise each number would raise an error."""
    with translation.override(language):
        assert page_texts() == texts_of_page


def test_a_project_s_own_language_has_its_texts_and_english_numbers(settings: Any, tmp_path: Path) -> None:
    own_locale(settings, tmp_path, "dothraki-sea", {"Done": "Hash"})
    with translation.override("dothraki-sea"):
        assert page_texts() == {"done": "Hash"}


@pytest.mark.parametrize("site", ["en", "es"])
def test_a_project_s_own_texts_are_shown_also_if_an_amount_is_as_in_another_language(
    settings: Any, tmp_path: Path, site: str
) -> None:
    settings.LANGUAGE_CODE = site
    own_locale(settings, tmp_path, "pt", {"Done": "Feito", "{current} of {total}": "{current} de {total}"})
    with translation.override("pt"):
        assert (page_texts()["done"], page_texts()["locale"]) == ("Feito", "pt")
        assert ">Feito<" in markup(Progress(id="m1", actor="work", queue="default", state=State.DONE))


@pytest.mark.parametrize("language", ["fr", "pl"])
def test_a_page_in_an_unknown_language_has_the_texts_and_numbers_of_the_site_s(
    settings: Any, tmp_path: Path, language: str
) -> None:
    settings.LANGUAGE_CODE = "de"
    # Django keeps what it has read before.
    settings.LOCALE_PATHS = [tmp_path]
    with translation.override(language):
        assert (page_texts()["done"], page_texts()["locale"]) == ("Fertig", "de")
        running = {"actor": "work", "queue": "default", "state": State.RUNNING, "eta": 200.0}
        html = markup(Progress(id="m1", current=1200, total=5000, **running))
        assert "1.200 von 5.000, noch etwa 4\N{NO-BREAK SPACE}Minuten" in html


@pytest.mark.parametrize("language", ["de", "de-at", "es-mx"])
def test_a_dialect_has_the_texts_of_its_language_and_its_own_numbers(language: str) -> None:
    with translation.override(language):
        assert page_texts()["locale"] == language
        assert page_texts()["done"] == {"de": "Fertig", "es": "Terminado"}[language[:2]]


def test_texts_are_passed_once_and_are_small() -> None:
    with translation.override("de"):
        html = meta()
    assert len(html.encode()) < 2600
    assert html.count("<meta") == 1


class _Attributes(HTMLParser):
    found: dict[str, str | None]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found = dict(attributes)


def test_a_translation_is_text_in_the_page_and_never_markup(settings: Any, tmp_path: Path) -> None:
    """A project can override texts by a directory in LOCALE_PATHS, in English too."""
    text = "It's \"all\" <there> &amp; more'>"
    own_locale(settings, tmp_path, "en", {"Done": text})
    parser = _Attributes()
    with translation.override("en"):
        parser.feed(meta())
        assert page_texts() == {"done": text}
    content = parser.found.pop("content")
    assert content
    assert json.loads(content) == {"done": text}
    assert parser.found == {"name": "dramatiq-progress-texts"}


def own_locale(settings: Any, folder: Path, language: str, texts: dict[str, str]) -> None:
    """Write a project's own translations, as in the documentation."""
    path = folder / translation.to_locale(language) / "LC_MESSAGES" / "django.po"
    path.parent.mkdir(parents=True)
    catalog = messages.Catalog()
    for english, text in texts.items():
        catalog.add(english, text, context=CONTEXT)
    messages.write(path, catalog)
    settings.LOCALE_PATHS = [folder]


# ---- In a page ----

GIVEN_UP = texts.RESULTS[-1]


def open_in(language: str, open_bar: OpenBar, attributes: str = "") -> Any:
    with translation.override(language):
        return open_bar(attributes, head=meta())


@pytest.mark.parametrize(
    ("language", "reply", "text"),
    [
        ("de", answer("running"), "Importing: 1.200 von 5.000"),
        ("de", answer("running", current=0.5, total=4), "Importing: 0,5 von 4"),
        ("de", answer("enqueued", extra={"queue_position": 3, "queue_length": 12}), None),
        (
            "de",
            answer("retrying", retry_in=9),
            "Dieser Versuch ist fehlgeschlagen. Noch 9 Sekunden bis zum nächsten… (Versuch 2)",
        ),
        ("de", answer("failed"), "Die Aufgabe ist fehlgeschlagen."),
        ("de", answer("failed", result="The task failed."), "Die Aufgabe ist fehlgeschlagen."),
        ("de", answer("failed", result=GIVEN_UP), None),
        ("de", answer("failed", result="Zeile 7 hat keinen Code."), "Zeile 7 hat keinen Code."),
        ("de", answer("failed", result="constructor"), "constructor"),
        ("es", answer("skipped", result="The task was skipped."), "La tarea se ha omitido."),
        (
            "es",
            answer("retrying", retry_in=3600),
            "Este intento ha fallado. Nuevo intento dentro de 60 minutos… (intento 2)",
        ),
    ],
)
def test_a_bar_is_in_the_language_of_its_page(
    open_bar: OpenBar, site: ScriptedSite, language: str, reply: dict[str, Any], text: str | None
) -> None:
    site.reply(reply)
    bar = open_in(language, open_bar)
    expect_state(bar, reply["state"])
    with translation.override(language):
        place = {"position": 3, "length": 12}
        expected = text or translate_result(reply.get("result")) or translate(TEXTS["position"]).format(**place)
    expect(part(bar, "text")).to_have_text(expected)


@pytest.mark.parametrize(
    ("language", "eta", "text"),
    [
        ("de", 119.3, "noch etwa 2 Minuten"),
        ("de", 0.4, "noch etwa 1 Sekunde"),
        ("es", 59.5, "tiempo restante aproximado: 60 segundos"),
        ("es", 7200, "tiempo restante aproximado: 2 horas"),
    ],
)
def test_durations_have_suitable_units(
    open_bar: OpenBar, site: ScriptedSite, language: str, eta: float, text: str
) -> None:
    site.reply(answer("running", extra={"eta": eta}))
    bar = open_in(language, open_bar)
    expect(part(bar, "text")).to_have_text(re.compile(rf"5\.?000, {text}$"))
    expect(part(bar, "percent")).to_have_text("24\N{NO-BREAK SPACE}%")


def test_results_are_in_the_language_of_the_page(open_bar: OpenBar, site: ScriptedSite) -> None:
    site.reply(answer("done", result={"Zeilen": 20000, "vollständig": True}))
    bar = open_in("de", open_bar, "show-result")
    expect(part(bar, "text")).to_have_text("Zeilen: 20.000, vollständig: ja")


def test_attributes_and_scripts_of_a_page_take_precedence(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    """They can be set before the first bar."""
    site.reply(answer("done"))
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


def test_a_page_can_switch_to_another_language(open_bar: OpenBar, site: ScriptedSite, page: Page) -> None:
    """Turbo replaces the head and the body of a page."""
    site.reply(answer("done"))
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
    # No text of an earlier language is left.
    texts_of_module = page.evaluate(
        "import('/static/dramatiq_progress/dramatiq-progress.js').then(({ TEXTS }) => TEXTS)"
    )
    assert texts_of_module == TEXTS | {"locale": "en", "results": []}


def test_an_arabic_page_is_right_to_left_with_a_project_s_own_texts(
    open_bar: OpenBar, site: ScriptedSite, settings: Any, tmp_path: Path
) -> None:
    amount, remaining = "{current} من {total}", "{text}، بقي نحو {time}"
    own_locale(settings, tmp_path, "ar", {TEXTS["amount"]: amount, TEXTS["remaining"]: remaining})
    site.reply(answer("running", description="استيراد", extra={"eta": 600}))
    bar = open_in("ar-eg", open_bar, 'dir="rtl" lang="ar"')
    expect(part(bar, "text")).to_have_text("استيراد: ١٬٢٠٠ من ٥٬٠٠٠، بقي نحو ١٠ دقائق")
    is_beside_the_sign = """text => {
      const sign = text.closest("[part=help]").firstChild;
      return text.getBoundingClientRect().right < sign.getBoundingClientRect().left;
    }"""
    assert part(bar, "text").evaluate(is_beside_the_sign)
