"""The `cas` command: a thin layer of words and tables over the client, the runner and the projector.

`main` is the console script. Modules import what is heavy (NATS, DuckDB, LangGraph) inside their commands, so that
`cas --help` answers at once. Nothing below this layer knows of it.
"""


def main() -> None:
    """Run the `cas` command and end the process with its exit code."""
    from cas_events.cli.entry import main as entry  # noqa: PLC0415 - `import cas_events.cli` costs nothing

    entry()
