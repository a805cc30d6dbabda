"""Progress bars for Django projects that run their background work on Dramatiq."""

from .actors import progress_actor
from .cancellation import Cancellation, CancelOutcome, acancel, cancel
from .composition import progress_group, progress_pipeline
from .errors import Cancelled, DramatiqProgressError, Interrupted, InvalidReport, StoreUnavailable, UserFacingError
from .links import progress_url
from .owners import owned_by
from .pausing import PauseOutcome, Pausing, apause, aresume, pause, resume
from .progress import Progress, State
from .schedules import get_schedules, scheduled
from .stores import aget_progress, get_progress
from .worker.current import current_observer
from .worker.observing.observer import ProgressObserver

__all__ = [
    "CancelOutcome",
    "Cancellation",
    "Cancelled",
    "DramatiqProgressError",
    "Interrupted",
    "InvalidReport",
    "PauseOutcome",
    "Pausing",
    "Progress",
    "ProgressObserver",
    "State",
    "StoreUnavailable",
    "UserFacingError",
    "acancel",
    "aget_progress",
    "apause",
    "aresume",
    "cancel",
    "current_observer",
    "get_progress",
    "get_schedules",
    "owned_by",
    "pause",
    "progress_actor",
    "progress_group",
    "progress_pipeline",
    "progress_url",
    "resume",
    "scheduled",
]
