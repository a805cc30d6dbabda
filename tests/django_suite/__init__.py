"""Django's own tests of tasks, run with `DramatiqBackend` in place of the backends that Django ships.

Usage: python -m tests.django_suite SDIST [STORE_URL]

The tests are those of the source distribution of the installed Django. Only the paths of Django's two backends are
replaced, by dummy.py (no worker runs) and immediate.py (a worker runs until the task has ended).
"""
