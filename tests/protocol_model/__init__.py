"""Model of the protocol between payment_rpc, order_rpc and a payment channel: one order, a few
payments, real faults.

The state is plain data (`world`). `moves` lists every step that is possible in it; a step is one
transaction of one service or one remote call. What a process holds between two steps is an entry of
`World.calls`: dropping it is a crash or a lost message, finishing it late is a delay, a zombie or a
duplicate. `invariants` says what must hold, `rules` which sentences of the protocol can be taken
away, `search` walks. docs/protocol_model.md explains how to run it and how to read what it prints.
"""
