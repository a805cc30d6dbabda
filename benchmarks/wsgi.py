"""The WSGI application of the benchmarks, with the Celery application that celery-progress's view needs."""

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

from benchmarks import celery_app  # noqa: E402, F401 - Django first
