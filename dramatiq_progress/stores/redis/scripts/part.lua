#!lua flags=allow-oom
-- Members contribute to a composite: their starts, reports and ends. See composite.lua, which this is. Accepted by a full
-- store (allow-oom), since an end is.
