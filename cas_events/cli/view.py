"""A task as it runs: a progress bar at the bottom, its log lines above.

Without a terminal there is no bar; then a line of progress is printed every tenth of the way. Holds no events.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from cas_events.cli.output import print_line
from cas_events.cli.texts import (
    LEVEL_STYLES,
    STATUS_STYLES,
    clock,
    cut,
    failure_text,
    fraction,
    log_level,
    log_text,
    one_line,
    progress_text,
    questions,
)
from cas_events.domain import events
from cas_events.domain.events import Event

_MESSAGE_LENGTH = 48
_QUESTION_LENGTH = 400
_PLAIN_STEPS = 10


def log_line(event: Event) -> Text:
    """A `cas.log` event as a line: time, level, message, fields."""
    level = log_level(event)
    style = LEVEL_STYLES.get(level, "")
    line = Text(f"{clock(event.time)} ", style="dim")
    line.append(f"{level:<9}", style=style or "not dim")
    line.append(log_text(event), style="not dim")
    return line


class TaskView:
    """Shows one task's events; a context manager.

    Args:
        console: where to.
        agent_id: the task's agent.
        log_line: renders a log event; None leaves it out.
    """

    def __init__(
        self, console: Console, agent_id: str, *, log_line: Callable[[Event], Text | None] = log_line
    ) -> None:
        self._console = console
        self._log_line = log_line
        self._steps_said = 0
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.fields[agent]}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[message]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=1.0, agent=agent_id, message="queued")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Show the next event."""
        if event.type == events.LOG:
            line = self._log_line(event)
            if line is not None:
                self.say(line)
        elif event.type == events.PROGRESS:
            self._show_progress(event)
        elif event.is_lifecycle:
            self._show_status(event)

    def say(self, line: Text) -> None:
        """Print a line above the bar."""
        print_line(self._console, line, flush=True)

    def _show_progress(self, event: Event) -> None:
        done = fraction(event)
        message = cut(one_line(str(event.data.get("message", ""))), _MESSAGE_LENGTH)
        self._progress.update(self._bar, completed=done, message=message)
        steps = int(done * _PLAIN_STEPS)
        if not self._console.is_terminal and steps > self._steps_said:
            self._steps_said = steps
            self.say(Text(f"{clock(event.time)} {'progress':<9}{progress_text(event)}"))

    def _show_status(self, event: Event) -> None:
        status = event.status or ""
        if event.type == events.STARTED:
            self._steps_said = 0
            self._progress.update(self._bar, completed=0.0, message="running")
            return
        if event.type == events.COMPLETED:
            self._progress.update(self._bar, completed=1.0)
        self._progress.update(self._bar, message=status)
        if not event.is_terminal:
            line = Text(f"{clock(event.time)} ", style="dim")
            line.append(f"{status:<12}", style=STATUS_STYLES.get(status, ""))
            line.append(failure_text(event), style="not dim")
            self.say(line)
        if event.type == events.INTERRUPTED:
            for name, value in questions(event):
                self.say(Text(f"  {cut(value, _QUESTION_LENGTH)}"))
                self.say(Text(f"  answer it with: cas resume {event.task_id} {name} JSON", style="bold"))
