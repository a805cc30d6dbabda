"""The thread and the database connections that a request has used, which its stream must not keep while it waits."""

from __future__ import annotations

from asgiref.sync import SyncToAsync, sync_to_async
from django.db import connections


async def release_thread() -> None:
    """Release the thread and the database connections that the request has used. It can get new ones later.

    If a request passes any synchronous code, as in Django's own signals and middleware, asgiref keeps a thread for it
    until it ends: 10,000 streams would hold 10,000 threads, and as many database connections.
    """
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is None or context not in SyncToAsync.context_to_thread_executor:
        return
    await sync_to_async(_close_connections)()
    executor = SyncToAsync.context_to_thread_executor.pop(context, None)
    if executor is not None:
        executor.shutdown(wait=False)


def _close_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
