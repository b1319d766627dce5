"""The command line's table of contents: which commands there are, in which order, under which headings."""

from __future__ import annotations

import typer

from cas_events.cli import (
    agents,
    audit,
    doctor,
    look,
    rebuilding,
    resume,
    schedules,
    serve,
    snapshot,
    start,
    state,
    tables,
    tree,
    up,
    verifying,
)

SERVE, START, LOOK = "Serve", "Start and stop tasks", "See what happened"

app = typer.Typer(
    name="cas",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def cas(context: typer.Context) -> None:
    """Durable AI-agent tasks on NATS JetStream: commands in, events out, DuckDB tables on top.

    First steps: `cas up` in one terminal, `cas run echo '{"steps": 5}'` in another. The server is the one that
    CAS_NATS_URL names, or the one that `cas up` runs under CAS_HOME (default: .cas).
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


app.command("up", rich_help_panel=SERVE)(up.bring_up)
app.command("worker", rich_help_panel=SERVE)(serve.worker)
app.command("projector", rich_help_panel=SERVE)(serve.projector)
app.command("run", rich_help_panel=START)(start.run)
app.command("retry", rich_help_panel=START)(start.retry)
app.command("resume", rich_help_panel=START)(resume.resume)
app.command("cancel", rich_help_panel=START)(start.cancel)
app.add_typer(schedules.app, name="schedules", rich_help_panel=START)
app.command("tasks", rich_help_panel=LOOK)(tables.tasks)
app.add_typer(agents.app, name="agents", rich_help_panel=LOOK)
app.command("tree", rich_help_panel=LOOK)(tree.tree)
app.command("state", rich_help_panel=LOOK)(state.state)
app.command("logs", rich_help_panel=LOOK)(look.logs)
app.command("tail", rich_help_panel=LOOK)(look.tail)
app.command("replay", rich_help_panel=LOOK)(look.replay)
app.command("sql", rich_help_panel=LOOK)(tables.sql)
app.command("snapshot", rich_help_panel=LOOK)(snapshot.snapshot)
app.command("rebuild", rich_help_panel=LOOK)(rebuilding.rebuild)
app.command("verify", rich_help_panel=LOOK)(verifying.verify)
app.add_typer(audit.app, name="audit", rich_help_panel=LOOK)
app.command("doctor", rich_help_panel=LOOK)(doctor.doctor)
