"""The life cycle of an activity, from its draft to CLOSED.

`activities` serves the RPCs of ActivityService but RebuildActivity. `transitions` makes one step in
one transaction. `publisher` and `closer` do the two steps that need other systems, in the call and
again in a worker until they are done.
"""
