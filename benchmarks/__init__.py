"""The costs of progress, compared with other libraries: one script per question, run by `make bench`."""
