"""The consumer of the admission queues: `consumer` reads entries and publishes decisions,
`batch_decider` makes the decisions, one database transaction per batch.
"""
