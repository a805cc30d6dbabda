"""Settings of the example site. The part on Dramatiq and progress is what a project of your own needs too."""

import os
from pathlib import Path

from django.core.management.utils import get_random_secret_key

EXAMPLE_DIR = Path(__file__).resolve().parent
# Everything the site writes: database, uploads, exports.
VAR_DIR = Path(os.environ.get("EXAMPLE_VAR") or EXAMPLE_DIR / "var").resolve()
VAR_DIR.mkdir(parents=True, exist_ok=True)

# --- Dramatiq and progress ---

REDIS_URL = os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379/0"
BROKER_URL = os.environ.get("BROKER_URL") or REDIS_URL

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.staticfiles",
    "django_dramatiq",
    "dramatiq_progress",
    "example",
]

if BROKER_URL.startswith(("amqp://", "amqps://")):
    _BROKER = "dramatiq.brokers.rabbitmq.RabbitmqBroker"
    _BROKER_OPTIONS = {"url": BROKER_URL}
else:
    _BROKER = "dramatiq.brokers.redis.RedisBroker"
    # The namespace keeps the demo's messages apart from those of a project that uses the same Redis.
    _BROKER_OPTIONS = {"url": BROKER_URL, "namespace": "dramatiq-progress-example"}

DRAMATIQ_BROKER = {
    "BROKER": _BROKER,
    "OPTIONS": _BROKER_OPTIONS,
    "MIDDLEWARE": [
        "dramatiq.middleware.AgeLimit",
        "dramatiq.middleware.TimeLimit",
        "dramatiq.middleware.Callbacks",
        "dramatiq.middleware.Pipelines",
        "dramatiq.middleware.Retries",
        "django_dramatiq.middleware.DbConnectionsMiddleware",
        "dramatiq_progress.middleware.ProgressMiddleware",
    ],
}

DRAMATIQ_PROGRESS = {
    "STORE": "dramatiq_progress.stores.redis.RedisStore",
    "OPTIONS": {"url": REDIS_URL},
}

# The site has no users, so a session's token is kept in a cookie, and nothing in the database.
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"

# --- The rest is like any Django site ---

# The site is for one's own machine: it is served on 127.0.0.1 only.
DEBUG = os.environ.get("EXAMPLE_DEBUG", "1") == "1"
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
# Nothing that is signed here has to outlive the process.
SECRET_KEY = get_random_secret_key()

ROOT_URLCONF = "example.urls"
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    # Each message belongs to the visitor who sent it.
    "dramatiq_progress.requests.OwnerMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": VAR_DIR / "db.sqlite3",
        "OPTIONS": {
            # Web server and workers write at the same time. Readers never wait for a writer (WAL); a writer
            # waits its turn, which SQLite can do only where a transaction begins (IMMEDIATE).
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
        },
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

STATIC_URL = "static/"
MEDIA_ROOT = VAR_DIR / "uploads"
EXPORTS_DIR = VAR_DIR / "exports"

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
USE_THOUSAND_SEPARATOR = True
