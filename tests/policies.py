"""Content Security Policies for the tests' site, set as projects do: by Django's own middleware or by django-csp."""

from __future__ import annotations

import json
from typing import Any

import django
from csp import constants

#: Stands in a policy for what the middleware puts in its place.
NONCE = "NONCE"

MIDDLEWARE = {"django-csp": "csp.middleware.CSPMiddleware"}
if django.VERSION >= (6, 0):
    MIDDLEWARE["django"] = "django.middleware.csp.ContentSecurityPolicyMiddleware"

STRICT = {
    "default-src": ["'none'"],
    "script-src": ["'self'"],
    "style-src": ["'self'"],
    "connect-src": ["'self'"],
}
WITH_NONCE = STRICT | {"script-src": [NONCE], "style-src": [NONCE]}
TRUSTED = STRICT | {"require-trusted-types-for": ["'script'"], "trusted-types": ["dramatiq-progress"]}


def header(policy: dict[str, list[str]]) -> str:
    """The policy as a header says it."""
    return "; ".join(f"{directive} {' '.join(sources)}" for directive, sources in policy.items())


def read(policy: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings ``SECURE_CSP`` of Django 6 and ``CONTENT_SECURITY_POLICY`` of django-csp, of a policy in JSON."""

    def named(nonce: object) -> dict[str, Any]:
        directives = json.loads(policy).items()
        return {directive: [nonce if each == NONCE else each for each in sources] for directive, sources in directives}

    # As django.utils.csp.CSP.NONCE, which Django 5.2 has not.
    return named("<CSP_NONCE_SENTINEL>"), {"DIRECTIVES": named(constants.NONCE)}
