"""Windows over the events: recomputed from the events they stand for, never added to.

events -> ``measures`` (what is summed) -> ``windows`` (SQL of each table) -> ``recompute`` (one range of time) ->
``worklist`` (which ranges, from the ledger) -> ``projector`` (the loop).
"""
