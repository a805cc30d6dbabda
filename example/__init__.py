"""A small Django site that uses dramatiq-progress: `make demo` runs it."""
