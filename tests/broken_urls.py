"""The URLs of a project whose actors cannot be declared, since its broker lacks the middleware."""

from __future__ import annotations

from dramatiq_progress import progress_actor


@progress_actor
def never_declared() -> None: ...


urlpatterns: list[object] = []
