"""The security-audit workflow and its two agents: real scanners, no language model, deterministic.

Import what is needed from the modules: `security` and `engineer` are light, `graph` brings LangGraph along.
"""
