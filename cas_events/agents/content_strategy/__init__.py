"""The content-strategy workflow: an `analyst` reads Markdown, a person approves the brief, a `marketer` plans.

Deterministic without a model, better with one (`cas_events.agents.model`). `graph` brings LangGraph along.
"""
