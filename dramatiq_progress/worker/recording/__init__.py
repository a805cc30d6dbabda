"""The writes to the store: by the recorder's thread, and at once or deferred for changes of state."""
