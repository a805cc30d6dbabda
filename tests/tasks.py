"""The actors that the tests' worker processes run. Django-dramatiq discovers modules of this name."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from dramatiq_progress import ProgressObserver, UserFacingError, progress_actor


@progress_actor(max_retries=3, cancellable=True)
def import_rows(progress_observer: ProgressObserver, path: str) -> None:
    """Import a file within some seconds, like the README's actor."""
    rows = list(csv.DictReader(Path(path).read_text().splitlines()))
    if not rows:
        raise UserFacingError("The file is empty.")
    for _ in progress_observer.track(rows, description="Importing"):
        time.sleep(0.002)
    progress_observer.set_result({"imported": len(rows)})
