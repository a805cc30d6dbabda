#!lua
-- Members of a composite are about to be sent. See composite.lua, which this is; unlike `part`, refused by a full store.
