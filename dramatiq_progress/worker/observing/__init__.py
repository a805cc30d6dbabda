"""The observer of an actor, and what it keeps until the recorder takes it: values, steps, labels, requests to end."""
