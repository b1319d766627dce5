"""The feature-development workflow: `analyst`, `planner`, `developer`, `tester`, `qa`, and back to the developer.

From a small written specification to code whose tests have really run. Deterministic without a model, which also
reads free prose and writes free code (`cas_events.agents.model`). `graph` brings LangGraph along.
"""
