"""Progress bars for Django projects that run their background work on Dramatiq."""

from .actors import progress_actor
from .errors import DramatiqProgressError, InvalidReport, StoreUnavailable, UserFacingError
from .observer import ProgressObserver, current_observer
from .owners import owned_by
from .progress import Progress, State
from .stores import aget_progress, get_progress

__all__ = [
    "DramatiqProgressError",
    "InvalidReport",
    "Progress",
    "ProgressObserver",
    "State",
    "StoreUnavailable",
    "UserFacingError",
    "aget_progress",
    "current_observer",
    "get_progress",
    "owned_by",
    "progress_actor",
]
