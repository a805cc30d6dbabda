"""The template tags, in real Django templates."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.core.exceptions import ImproperlyConfigured
from django.template import Context, RequestContext, Template, TemplateSyntaxError
from django.test import AsyncRequestFactory, RequestFactory
from dramatiq import Message

from dramatiq_progress.templatetags.dramatiq_progress import RESULT, RESULT_ATTRIBUTES, SCRIPT, STREAM, STYLESHEET, bar


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
def test_the_script_tag_writes_the_nonce_of_the_page(source: str, context: dict[str, str]) -> None:
    """Those of real middleware are in tests/test_bar_policies.py."""
    html = render(source, **context)
    assert html.count(' nonce="a&amp;b"') == html.count("nonce") == 2


def test_the_script_tag_can_leave_the_nonce_out() -> None:
    assert "nonce" not in render("{% dramatiq_progress_script nonce=None %}", csp_nonce="abc")


@pytest.mark.parametrize("name", [STYLESHEET, SCRIPT, STREAM, RESULT])
def test_what_the_tags_link_is_there(name: str) -> None:
    assert finders.find(name) is not None


def test_the_script_tag_uses_the_names_of_the_storage(settings: Any, tmp_path: Any) -> None:
    manifest = {"version": "1.1", "paths": {STYLESHEET: "a.0a1b.css", SCRIPT: "b.2c3d.js"}}
    (tmp_path / "staticfiles.json").write_text(json.dumps(manifest))
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}}
    html = render("{% dramatiq_progress_script %}")
    assert 'href="/static/a.0a1b.css"' in html
    assert 'src="/static/b.2c3d.js"' in html


def test_a_bar_takes_a_message_id() -> None:
    html = render("{% dramatiq_progress message_id fallback=False %}", message_id="0b54e7ea-c5d0_1")
    assert html == '<dramatiq-progress list="/progress/" src="/progress/0b54e7ea-c5d0_1/"></dramatiq-progress>'


def test_a_bar_takes_a_message() -> None:
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
        ' result-module="/static/dramatiq_progress/dramatiq-progress-result.js" src="/progress/m1/" show-result>'
        "</dramatiq-progress>"
    )


@pytest.mark.parametrize("attribute", RESULT_ATTRIBUTES)
def test_a_bar_that_does_more_at_the_end_is_told_where_that_module_is(attribute: str) -> None:
    name = attribute.replace("-", "_")
    assert f'result-module="/static/{RESULT}"' in bar("m1", **{name: True})
    assert "result-module" not in bar("m1", **{name: False})
    assert 'result-module="/own.js"' in bar("m1", **{name: True, "result_module": "/own.js"})


def test_a_bar_may_ask_by_itself() -> None:
    assert bar("m1", list=None, fallback=False) == '<dramatiq-progress src="/progress/m1/"></dramatiq-progress>'


def test_under_asgi_a_bar_is_told_of_the_stream() -> None:
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


def test_an_option_that_is_none_is_left_out() -> None:
    assert bar("m1", label=None) == bar("m1")


@pytest.mark.parametrize("bad", ["", None, 7, "a b", "../admin", "x" * 65, "m1\n", "<b>"])
def test_what_is_no_message_id_is_named(bad: object) -> None:
    with pytest.raises(TemplateSyntaxError) as caught:
        render("{% dramatiq_progress message_id %}", message_id=bad)
    assert repr(bad) in str(caught.value)


def test_a_variable_that_is_missing_is_explained() -> None:
    with pytest.raises(TemplateSyntaxError, match="Is the variable in the template's context"):
        render("{% dramatiq_progress mesage_id %}")


def test_without_the_urls_the_line_to_add_is_named(settings: Any) -> None:
    settings.ROOT_URLCONF = "django.contrib.staticfiles.urls"
    with pytest.raises(ImproperlyConfigured) as caught:
        render('{% dramatiq_progress "m1" %}')
    assert 'path("progress/", include("dramatiq_progress.urls"))' in str(caught.value)
