"""LangGraph's long-term memory on JetStream (docs/memory.md).

`store` is LangGraph's interface, `writing` puts and deletes, `reading` gets, searches and lists, `sweeping` deletes
what is over. The layout is `wire.memory`'s, the rules of filters are `domain.memory`'s. Whoever imports this imports
LangGraph.
"""
