"""Checks of the servers that the demo uses, and printable URLs."""

import logging
from urllib.parse import unquote, urlsplit

import pika
import pika.exceptions
import redis

CONNECT_TIMEOUT_SECONDS = 3
OLDEST_REDIS = (7, 0)


class DemoError(Exception):
    """The demo can't continue. The message explains why, and what to do."""


def check_redis(variable, url):
    """Raise `DemoError` unless the Redis or Valkey server at `url`, the value of `variable`, can be used."""
    try:
        client = redis.Redis.from_url(
            url, socket_connect_timeout=CONNECT_TIMEOUT_SECONDS, socket_timeout=CONNECT_TIMEOUT_SECONDS
        )
    except ValueError:
        # The error's message may contain a part of the password.
        raise DemoError(
            f"{variable} is not the URL of a Redis server. Such a URL is redis://user:password@host:6379/0, "
            "with the special characters of the password percent-encoded."
        ) from None
    try:
        version = client.info("server")["redis_version"]
    except redis.RedisError as error:
        raise DemoError(
            f"Can't use the server of {variable}, {shown(url)}: {without_password(str(error), url)}\n"
            f"Start or repair it, or unset {variable}: the demo then starts its own server."
        ) from None
    finally:
        client.close()
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        raise DemoError(f"The server at {shown(url)} is Redis {version}; 7.0 or newer, or Valkey 8, is needed.")


def check_rabbitmq(variable, url):
    """Raise `DemoError` unless the RabbitMQ server at `url`, the value of `variable`, accepts a connection."""
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # It logs each failure in many lines.
    try:
        parameters = pika.URLParameters(url)
        parameters.connection_attempts = 1
        parameters.socket_timeout = CONNECT_TIMEOUT_SECONDS
        parameters.stack_timeout = 2 * CONNECT_TIMEOUT_SECONDS
        pika.BlockingConnection(parameters).close()
    except (pika.exceptions.AMQPError, OSError, ValueError) as error:
        raise DemoError(
            f"Can't use the server of {variable}, {shown(url)} ({type(error).__name__}).\n"
            f"Start or repair it, or unset {variable}: the demo then uses Valkey as its broker."
        ) from None


def shown(url):
    """Return a printable URL: scheme, host and port, and the path if it can't contain a password."""
    try:
        parts = urlsplit(url)
        host = f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"
    except ValueError:
        return "(an invalid URL)"
    # A password that is not percent-encoded can spill over into the path.
    path = "" if "@" in parts.path or "@" in parts.fragment else parts.path
    return f"{parts.scheme}://{host}{path}"


def without_password(text, *urls):
    """Replace the passwords of the URLs in a text with asterisks."""
    for url in urls:
        try:
            password = urlsplit(url).password
        except ValueError:
            continue
        for secret in filter(None, (password, unquote(password or ""))):
            text = text.replace(secret, "***")
    return text
