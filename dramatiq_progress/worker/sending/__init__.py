"""Messages that are sent: their records and options, groups and pipelines, and those that are sent again."""
