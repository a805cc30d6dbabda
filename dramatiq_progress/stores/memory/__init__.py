"""The store in the memory of one process. Its modules are the rules that the scripts of redis/scripts are for Redis.

`store` runs them: `transitions` and `attempt_transitions` for messages, `contributions` for composites, `claims` for
schedules, with what they share in `prelude`.
"""

from .store import MemoryStore

__all__ = ["MemoryStore"]
