"""A runner with the sample agents: ``cas worker cas_events.agents.samples:runner``.

It connects when it is run, to the server that the settings name.
"""

from __future__ import annotations

from cas_events.agents import register_samples
from cas_events.runner import Runner

runner = Runner()
register_samples(runner)
