"""Django signals, for code that wants to act when the state of a message changes."""

from django.dispatch import Signal

#: Sent in the process that changed a message's state: the sender's, or a worker's.
#:
#: Arguments: ``sender`` (the class `ProgressMiddleware`), ``progress`` (a `Progress`, as read just after the change),
#: ``previous`` (the `State` before; None when there was no record). A receiver that raises is logged and harms nothing.
#: Reading the progress costs a round trip to the store for each change, while there are receivers.
state_changed = Signal()
