"""A small Django site that shows dramatiq-progress at work: `make demo` runs it."""
