"""Event streams: changes of progress sent to pages as they happen, under ASGI."""
