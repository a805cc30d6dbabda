"""Settings of the example site. The part on Dramatiq and progress is needed in your own project too."""

import os
from pathlib import Path

from django.core.management.utils import get_random_secret_key

EXAMPLE_DIR = Path(__file__).resolve().parent
# The folder of the database, uploads and exports.
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
    # The namespace separates the demo's messages from those of other projects on the same Redis.
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

# For Django 6.0 and newer, which has tasks.
TASKS = {"default": {"BACKEND": "dramatiq_progress.backends.DramatiqBackend", "QUEUES": ["example"]}}

# The site has no users. The session is only a token, which is stored in the cookie.
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"

# --- The rest is the same as in any Django site ---

# The site is for local use: it is served on 127.0.0.1 only.
DEBUG = os.environ.get("EXAMPLE_DEBUG", "1") == "1"
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
# No signature needs to outlive the process.
SECRET_KEY = get_random_secret_key()

ROOT_URLCONF = "example.urls"
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    # The visitor who sends a message owns it.
    "dramatiq_progress.requests.OwnerMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": ["django.template.context_processors.request", "example.views.running_count"]
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": VAR_DIR / "db.sqlite3",
        "OPTIONS": {
            # The web server and the workers write concurrently. With WAL, readers don't wait for writers. Writers wait
            # for each other, which SQLite only supports at the start of a transaction (IMMEDIATE).
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
        },
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

STATIC_URL = "static/"
MEDIA_URL = "media/"
MEDIA_ROOT = VAR_DIR / "uploads"
EXPORTS_DIR = VAR_DIR / "exports"

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
USE_THOUSAND_SEPARATOR = True
