"""Progress bars for Django projects that run their background work on Dramatiq."""

from .actors import progress_actor
from .cancellation import Cancellation, CancelOutcome, acancel, cancel
from .errors import Cancelled, DramatiqProgressError, InvalidReport, StoreUnavailable, UserFacingError
from .links import progress_url
from .observer import ProgressObserver, current_observer
from .owners import owned_by
from .progress import Progress, State
from .stores import aget_progress, get_progress

__all__ = [
    "CancelOutcome",
    "Cancellation",
    "Cancelled",
    "DramatiqProgressError",
    "InvalidReport",
    "Progress",
    "ProgressObserver",
    "State",
    "StoreUnavailable",
    "UserFacingError",
    "acancel",
    "aget_progress",
    "cancel",
    "current_observer",
    "get_progress",
    "owned_by",
    "progress_actor",
    "progress_url",
]
