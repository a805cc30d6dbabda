"""The URLs of a project that forgot those of this package."""

urlpatterns: list[object] = []
