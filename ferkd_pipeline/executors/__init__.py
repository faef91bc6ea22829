"""Where shards run: in this process (`local`), or on the nodes of a Ray cluster (`ray`).

Nothing heavy is imported here. `phases` are the calls of the engine that a run on a cluster is made
of, `schedule` decides when which shard is tried, `overview` shows how far all of them are. What Ray
does is in the modules whose names begin so; only they import it.
"""

LOCAL = "local"
RAY = "ray"
EXECUTORS = (LOCAL, RAY)
