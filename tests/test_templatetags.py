"""The template tags, in real Django templates."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.core.exceptions import ImproperlyConfigured
from django.template import Context, RequestContext, Template, TemplateSyntaxError
from django.test import AsyncRequestFactory, RequestFactory
from dramatiq import Message

from dramatiq_progress.stores import Store
from dramatiq_progress.web.attributes import ATTRIBUTES, COMPACT_ATTRIBUTES, RESULT_ATTRIBUTES
from dramatiq_progress.web.elements import bar
from dramatiq_progress.web.static_files import PARTS, RESULT, SCRIPT, STREAM, STYLESHEET


def render(source: str, **context: Any) -> str:
    return Template("{% load dramatiq_progress %}" + source).render(Context(context))


def test_the_script_tag_links_styles_and_module() -> None:
    assert render("{% dramatiq_progress_script %}") == (
        '<link rel="stylesheet" href="/static/dramatiq_progress/dramatiq-progress.css">\n'
        '<script type="module" src="/static/dramatiq_progress/dramatiq-progress.js"></script>'
    )


@pytest.mark.parametrize(
    ("source", "context"),
    [
        ("{% dramatiq_progress_script %}", {"csp_nonce": "a&b"}),
        ("{% dramatiq_progress_script nonce=own %}", {"csp_nonce": "another", "own": "a&b"}),
    ],
)
def test_the_script_tag_renders_the_nonce_of_the_page(source: str, context: dict[str, str]) -> None:
    """Nonces of real middleware are tested in tests/test_bar_policies.py."""
    html = render(source, **context)
    assert html.count(' nonce="a&amp;b"') == html.count("nonce") == 2


def test_the_script_tag_can_omit_the_nonce() -> None:
    assert "nonce" not in render("{% dramatiq_progress_script nonce=None %}", csp_nonce="abc")


@pytest.mark.parametrize("name", [STYLESHEET, SCRIPT, STREAM, RESULT, PARTS])
def test_the_linked_static_files_exist(name: str) -> None:
    assert finders.find(name) is not None


def test_the_script_tag_uses_the_names_of_the_static_files_storage(settings: Any, tmp_path: Any) -> None:
    manifest = {"version": "1.1", "paths": {STYLESHEET: "a.0a1b.css", SCRIPT: "b.2c3d.js"}}
    (tmp_path / "staticfiles.json").write_text(json.dumps(manifest))
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}}
    html = render("{% dramatiq_progress_script %}")
    assert 'href="/static/a.0a1b.css"' in html
    assert 'src="/static/b.2c3d.js"' in html


def test_a_bar_accepts_a_message_id() -> None:
    html = render("{% dramatiq_progress message_id fallback=False %}", message_id="0b54e7ea-c5d0_1")
    assert html == (
        f'<dramatiq-progress list="/progress/" parts-module="/static/{PARTS}" src="/progress/0b54e7ea-c5d0_1/">'
        "</dramatiq-progress>"
    )


def test_a_bar_accepts_a_message() -> None:
    message: Message[None] = Message(queue_name="default", actor_name="add", args=(), kwargs={}, options={})
    assert bar(message) == bar(message.message_id)


def test_options_become_attributes() -> None:
    html = render(
        '{% dramatiq_progress "m1" show_result=True redirect=False download=label id="one" class="wide"'
        " fallback=False %}",
        label='Get "it" & <go>',
    )
    assert html == (
        '<dramatiq-progress class="wide" download="Get &quot;it&quot; &amp; &lt;go&gt;" id="one" list="/progress/"'
        f' parts-module="/static/{PARTS}"'
        ' result-module="/static/dramatiq_progress/dramatiq-progress-result.js" src="/progress/m1/" show-result>'
        "</dramatiq-progress>"
    )


class _Elements(HTMLParser):
    """The attributes of each element, as a browser reads them, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("""{% dramatiq_progress message_id label='Stop "a.csv"?' %}""", 'Stop "a.csv"?'),
        ("""{% dramatiq_progress message_id label=_('Stop "a.csv"?') %}""", 'Stop "a.csv"?'),
        (
            '{% load i18n %}{% blocktranslate asvar text %}Stop "{{ name }}" & go?{% endblocktranslate %}'
            "{% dramatiq_progress message_id label=text %}",
            'Stop "<a> & "b"" & go?',
        ),
        ("{% dramatiq_progress message_id label=name %}", '<a> & "b"'),
        ("{% dramatiq_progress message_id label=name|safe %}", '<a> & "b"'),
        ("{% autoescape off %}{% dramatiq_progress message_id label=name %}{% endautoescape %}", '<a> & "b"'),
    ],
)
@pytest.mark.parametrize("name", ["label", "aria_label", "cancel_confirm"])
@pytest.mark.parametrize("message_id", ["m1", "a b"])
def test_the_value_of_an_attribute_may_have_quotes_and_angle_brackets(
    source: str, text: str, name: str, message_id: str
) -> None:
    """Text in a template is a safe string, which Django doesn't escape."""
    html = render(source.replace("label=", f"{name}="), name='<a> & "b"', message_id=message_id)
    [(_, attributes), *children] = _Elements(html).found
    assert attributes[name.replace("_", "-")] == text
    assert attributes.keys() <= {name.replace("_", "-"), "list", "src", "parts-module"}
    assert {tag for tag, _ in children} <= {"b", "progress", "span", "a"}
    if message_id == "m1" and name != "cancel_confirm":
        assert dict(children)["progress"] == {"max": "100", "aria-label": text}


@pytest.mark.parametrize("name", [*RESULT_ATTRIBUTES, *COMPACT_ATTRIBUTES, "pulse"])
def test_an_attribute_that_turns_something_on_is_omitted_if_it_is_0(name: str) -> None:
    keyword = name.replace("-", "_")
    assert render(f"{{% dramatiq_progress 'm1' {keyword}=0 %}}") == bar("m1", **{keyword: False}) == bar("m1")
    assert ' tabindex="0"' in render("{% dramatiq_progress 'm1' tabindex=0 %}")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lable", "label"),
        ("show_results", "show_result"),
        ("showResult", "show_result"),
        ("cancle", "cancel"),
        ("cancel_confrim", "cancel_confirm"),
        ("fall_back", "fallback"),
        ("poll_intervall", "poll_interval"),
        ("compat", "compact"),
        ("text_donne", "text_done"),
    ],
)
def test_a_misspelled_attribute_is_an_error_that_names_the_one_that_was_meant(name: str, meant: str) -> None:
    reason = re.escape(f'no attribute "{name}"; did you mean "{meant}"?')
    with pytest.raises(TemplateSyntaxError, match=reason):
        render(f'{{% dramatiq_progress "m1" {name}=True %}}')
    # Before anything is read: the page may have no message.
    for tag in ("mine", "schedules"):
        with pytest.raises(TemplateSyntaxError, match=reason):
            render(f"{{% dramatiq_progress_{tag} {name}=True %}}")


@pytest.mark.parametrize(("tag", "name"), [("mine", "emty"), ("schedules", "staf_only")])
def test_a_misspelled_option_of_a_tag_is_an_error(tag: str, name: str) -> None:
    with pytest.raises(TemplateSyntaxError, match=f'no attribute "{name}"; did you mean'):
        render(f"{{% dramatiq_progress_{tag} {name}=True %}}")


@pytest.mark.parametrize(
    "name",
    [
        *("id", "class", "style", "hidden", "title", "lang", "dir", "slot", "part", "role", "tabindex", "name", "key"),
        *("data_label", "data_lable", "aria_labelledby", "aria_live", "aria_describedby", "onclick", "is", "translate"),
        *("hx_swap", "hx_get", "x_label", "x_data", "v_cloak", "up_source", "hidden_until"),
        *("text_retryNow", "text_retrynow", "text_not_found", "text_cancelFailed", "text_stepped"),
    ],
)
def test_a_page_has_attributes_of_its_own(name: str) -> None:
    assert f' {name.replace("_", "-")}="one"' in bar("m1", **{name: "one"})


def test_every_documented_attribute_is_known() -> None:
    document = (Path(__file__).parent.parent / "docs" / "bar.md").read_text()
    table = document.partition("## Attributes that you set")[2].partition("###")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)}
    assert len(names) > 25 and names <= ATTRIBUTES


@pytest.mark.parametrize("attribute", RESULT_ATTRIBUTES)
def test_attributes_for_the_result_add_the_url_of_its_module(attribute: str) -> None:
    name = attribute.replace("-", "_")
    assert f'result-module="/static/{RESULT}"' in bar("m1", **{name: True})
    assert "result-module" not in bar("m1", **{name: False})
    assert 'result-module="/own.js"' in bar("m1", **{name: True, "result_module": "/own.js"})


def test_a_bar_can_poll_alone() -> None:
    html = bar("m1", list=None, parts_module=None, fallback=False)
    assert html == '<dramatiq-progress src="/progress/m1/"></dramatiq-progress>'


def test_under_asgi_a_bar_has_the_url_of_the_stream() -> None:
    template = Template(
        '{% load dramatiq_progress %}{% dramatiq_progress "m1" %}{% dramatiq_progress "m2" stream=None %}'
    )
    streamed, polled = template.render(RequestContext(AsyncRequestFactory().get("/"))).split("</dramatiq-progress>")[:2]
    assert (
        ' stream="/progress/stream/" stream-module="/static/dramatiq_progress/dramatiq-progress-stream.js"' in streamed
    )
    assert ' stream="' not in polled
    assert "stream" not in template.render(RequestContext(RequestFactory().get("/")))
    assert "stream" not in template.render(Context())


def test_an_option_that_is_none_is_omitted() -> None:
    assert bar("m1", label=None) == bar("m1")


@pytest.mark.parametrize("given", ['"Import"', '_("Import")'])
def test_a_label_is_also_the_one_of_the_children(given: str) -> None:
    html = render(f"{{% dramatiq_progress message_id label={given} %}}", message_id="m1")
    assert html.startswith('<dramatiq-progress label="Import"')
    assert '<b>Import</b><progress max="100" aria-label="Import">' in html


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("cancellable", [False, True])
def test_a_message_that_is_not_cancellable_has_no_button_and_debug_says_why(
    memory_store: Store, settings: Any, cancellable: bool, debug: bool
) -> None:
    settings.DEBUG = debug
    memory_store.enqueue("m1", actor="charge", queue="default", retries_left=0, cancellable=cancellable, owner="o")
    settings.DRAMATIQ_PROGRESS |= {"PERMISSION": "dramatiq_progress.permissions.anyone_with_link"}
    html = bar("m1", RequestFactory().get("/"), cancel=True)
    assert (' cancel="/progress/m1/cancel/"' in html) == (" csrf-cookie=" in html) == cancellable
    why = ' warning="No cancel button. This message of the actor &quot;charge&quot; isn&#x27;t cancellable.'
    assert (why in html) == (debug and not cancellable)
    assert "warning" not in bar("m1", RequestFactory().get("/"))


def test_without_a_read_the_tag_does_not_know_whether_a_message_is_cancellable(
    memory_store: Store, settings: Any
) -> None:
    """The bar's button requests the permission."""
    settings.DEBUG = True
    memory_store.enqueue("m1", actor="charge", queue="default", retries_left=0, owner="o")
    html = bar("m1", RequestFactory().get("/"), cancel=True, fallback=False)
    assert ' cancel="/progress/m1/cancel/"' in html and "warning" not in html


@pytest.mark.parametrize("is_permitted_otherwise", [False, True])
def test_debug_says_that_a_message_without_an_owner_has_no_button_for_visitors(
    memory_store: Store, settings: Any, is_permitted_otherwise: bool
) -> None:
    """A permission of the project's own may need no owner."""
    settings.DEBUG = True
    if is_permitted_otherwise:
        settings.DRAMATIQ_PROGRESS |= {"CANCEL_PERMISSION": "dramatiq_progress.permissions.anyone_with_link"}
    memory_store.enqueue("m1", actor="work", queue="default", retries_left=0, cancellable=True)
    html = bar("m1", RequestFactory().get("/"), cancel=True)
    assert ("the message has no owner" in html and "OwnerMiddleware" in html) != is_permitted_otherwise
    assert ' cancel="/progress/m1/cancel/"' in html
    settings.DEBUG = False
    assert "warning" not in bar("m1", RequestFactory().get("/"), cancel=True)


@pytest.mark.parametrize("bad", ["", None, 7, "a b", "../admin", "x" * 65, "m1\n", "<b>"])
def test_an_invalid_message_id_is_named_with_debug(settings: Any, bad: object) -> None:
    settings.DEBUG = True
    with pytest.raises(TemplateSyntaxError) as caught:
        render("{% dramatiq_progress message_id %}", message_id=bad)
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize("bad", ["", None, "a b", "../admin", "<b>\n"])
def test_without_debug_a_bar_with_an_invalid_message_id_says_that_it_could_not_be_found(
    caplog: pytest.LogCaptureFixture, bad: object
) -> None:
    """It may be from a URL of the project, that anyone can change."""
    html = render('{% dramatiq_progress message_id label="Import" cancel=True show_result=True %}', message_id=bad)
    assert html == (
        '<dramatiq-progress label="Import" show-result>'
        '<span data-state="not-found">This task could not be found.</span></dramatiq-progress>'
    )
    [record] = caplog.records
    assert repr(bad) in record.getMessage() and record.getMessage().isprintable()


def test_a_missing_variable_is_explained(settings: Any) -> None:
    settings.DEBUG = True
    with pytest.raises(TemplateSyntaxError, match="Is the variable in the template's context"):
        render("{% dramatiq_progress mesage_id %}")


def test_without_the_urls_the_line_to_add_is_named(settings: Any) -> None:
    settings.ROOT_URLCONF = "django.contrib.staticfiles.urls"
    with pytest.raises(ImproperlyConfigured) as caught:
        render('{% dramatiq_progress "m1" %}')
    assert 'path("progress/", include("dramatiq_progress.urls"))' in str(caught.value)
