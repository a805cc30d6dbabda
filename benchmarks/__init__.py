"""What progress costs, measured side by side with what people use today: one script per question, `make bench`."""
