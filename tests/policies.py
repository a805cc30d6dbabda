"""Content Security Policies for the tests' site, set by Django's own middleware or by django-csp."""

from __future__ import annotations

import json
from typing import Any

import django
from csp import constants

#: A placeholder in a policy, which the middleware replaces.
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
    """Return the policy as the value of a header."""
    return "; ".join(f"{directive} {' '.join(sources)}" for directive, sources in policy.items())


def read(policy: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ``SECURE_CSP`` (Django 6) and ``CONTENT_SECURITY_POLICY`` (django-csp) for a policy in JSON."""

    def named(nonce: object) -> dict[str, Any]:
        directives = json.loads(policy).items()
        return {directive: [nonce if each == NONCE else each for each in sources] for directive, sources in directives}

    # The value of django.utils.csp.CSP.NONCE, which Django 5.2 doesn't have.
    return named("<CSP_NONCE_SENTINEL>"), {"DIRECTIVES": named(constants.NONCE)}
