"""The `cas` command: a thin layer of words and tables over the client, the runner and the projector.

`main` is the console script, `demo` what `scripts/demo` calls. Modules import what is heavy (NATS, DuckDB, LangGraph)
inside their commands, so that `cas --help` answers at once. Nothing below this layer knows of it.
"""

from importlib import import_module


def main() -> None:
    """Run the `cas` command and end the process with its exit code."""
    _enter("cas_events.cli.entry")


def demo() -> None:
    """Run the demo and end the process with its exit code."""
    _enter("cas_events.cli.demo")


def _enter(module: str) -> None:
    try:
        enter = import_module(module).main
    except KeyboardInterrupt:  # An early Ctrl-C is one as well, and no reason for a stack trace.
        raise SystemExit(130) from None
    enter()
