"""LangGraph checkpoints on JetStream (docs/checkpoints.md).

`saver` is LangGraph's interface; `stream` reads, `views` and `fencing` write under the thread's fence, `codec` turns
checkpoints into records and back, `upkeep` deletes and copies. The layout is `wire.threads`, `wire.pieces` and
`wire.checkpoints`. Whoever imports this imports LangGraph.
"""
