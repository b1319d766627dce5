"""Every subject and stream name: built here, parsed here, and nowhere else (PROTOCOL section 1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import msgspec

from cas_events.domain.tokens import is_token

_T = r"[A-Za-z0-9_-]{1,64}"  # a token, as in domain.tokens

# Stands where an agent's name would: schedules have their state, timers and due times there, so no agent is called so.
CRON = "cron"

EVENT_CLASSES = ("task", "step", "progress", "log")


@dataclass(frozen=True)
class Names:
    """The names of one deployment.

    Attributes:
        deployment: the first token of every subject, such as ``cas``.
    """

    deployment: str = "cas"

    # --- streams ---------------------------------------------------------------------------------------------------

    @cached_property
    def commands(self) -> str:
        """Stream of commands."""
        return f"{self.deployment.upper()}_COMMANDS"

    @cached_property
    def events(self) -> str:
        """Stream of events: the log."""
        return f"{self.deployment.upper()}_EVENTS"

    @cached_property
    def output(self) -> str:
        """Stream of partial outputs and tokens, kept for 24 hours."""
        return f"{self.deployment.upper()}_OUTPUT"

    @cached_property
    def timers(self) -> str:
        """Stream of message schedules and of what they fire."""
        return f"{self.deployment.upper()}_TIMERS"

    @cached_property
    def checkpoints(self) -> str:
        """Stream of LangGraph checkpoints."""
        return f"{self.deployment.upper()}_CHECKPOINTS"

    @cached_property
    def blobs(self) -> str:
        """Stream of the object store that holds claim checks."""
        return f"OBJ_{self.blob_bucket}"

    @cached_property
    def blob_bucket(self) -> str:
        """Object-store bucket of the claim checks."""
        return f"{self.deployment.upper()}_BLOBS"

    # --- commands --------------------------------------------------------------------------------------------------

    def execute(self, agent: str, task: str) -> str:
        """Subject of the one execute command of a task; ``*`` is allowed in a filter."""
        return f"{self.deployment}.cmd.execute.{agent}.{task}"

    def cancel(self, task: str) -> str:
        """Subject of the one cancel command of a task."""
        return f"{self.deployment}.cmd.cancel.{task}"

    def resume(self, agent: str, task: str, interrupt: str) -> str:
        """Subject of the one answer to an interrupt."""
        return f"{self.deployment}.cmd.resume.{agent}.{task}.{interrupt}"

    # --- events ----------------------------------------------------------------------------------------------------

    def lifecycle(self, agent: str, task: str) -> str:
        """The exact subject whose last sequence is the task's lock."""
        return f"{self.deployment}.evt.task.{agent}.{task}"

    def event(self, class_: str, agent: str, task: str) -> str:
        """Subject of a task's events of one class; ``*`` as class filters all of them."""
        return f"{self.deployment}.evt.{class_}.{agent}.{task}"

    def agent_event(self, agent: str) -> str:
        """Subject of an agent's own events."""
        return f"{self.deployment}.evt.agent.{agent}"

    def state(self, agent: str, key: str = "") -> str:
        """Subject of an agent's state, or of one of its keys; the last message is the state."""
        return f"{self.deployment}.evt.state.{agent}{'.' if key else ''}{key}"

    @cached_property
    def audit_head(self) -> str:
        """Subject of the signed heads, all of them."""
        return f"{self.deployment}.evt.audit.head"

    def out(self, agent: str, task: str) -> str:
        """Subject of a task's partial outputs and tokens."""
        return f"{self.deployment}.out.{agent}.{task}"

    @cached_property
    def all_events(self) -> str:
        """Filter for every event of the log."""
        return f"{self.deployment}.evt.>"

    def live(self, subject: str) -> str:
        """Where the stored message of a subject is republished."""
        return f"{self.deployment}.live.{subject.removeprefix(self.deployment + '.')}"

    # --- timers ----------------------------------------------------------------------------------------------------

    def timer(self, agent: str, task: str) -> str:
        """Subject of a task's schedule."""
        return f"{self.deployment}.timer.{agent}.{task}"

    def due(self, agent: str, task: str, n: int | str) -> str:
        """Subject on which a schedule fires: the wake of attempt ``n``, 0 for a first start."""
        return f"{self.deployment}.due.{agent}.{task}.{n}"

    def schedule(self, name: str) -> str:
        """Subject of a recurring schedule's timer, which holds its next due time."""
        return self.timer(CRON, name)

    def cron_due(self, name: str) -> str:
        """Subject on which a recurring schedule fires."""
        return f"{self.deployment}.due.{CRON}.{name}"

    # --- checkpoints; what is below a thread is `wire.threads`' --------------------------------------------------------

    @property
    def probe(self) -> str:
        """Where processes try whether they are ready: one message, replaced each time. No thread's token has a `~`."""
        return f"{self.deployment}.ckpt.~ready"

    def thread(self, token: str) -> str:
        """What the subjects of a LangGraph thread begin with; ``*`` stands for every thread."""
        return f"{self.deployment}.ckpt.{token}"

    # --- services, on core NATS ------------------------------------------------------------------------------------

    def runner_service(self, runner: str) -> str:
        """Where a runner process answers whether it holds a task."""
        return f"{self.deployment}.svc.runner.{runner}"

    def agent_service(self, agent: str) -> str:
        """Where every runner that serves an agent answers."""
        return f"{self.deployment}.svc.agent.{agent}"

    @cached_property
    def beats(self) -> str:
        """Where every runner answers with its beat."""
        return f"{self.deployment}.svc.beats"

    def beat(self, runner: str) -> str:
        """Where a runner process says that it lives."""
        return f"{self.deployment}.svc.beat.{runner}"

    def runner_beat(self, runner: str) -> str:
        """Where one runner answers with its beat: its endpoint as a micro service."""
        return f"{self.deployment}.svc.runner.{runner}.beat"

    @cached_property
    def sql_service(self) -> str:
        """Where the projector answers SQL."""
        return f"{self.deployment}.svc.sql"

    @cached_property
    def projector_service(self) -> str:
        """Where the projector takes the request to make its tables anew, and says how far it is."""
        return f"{self.deployment}.svc.projector"

    # --- parsing ---------------------------------------------------------------------------------------------------

    @cached_property
    def _command_pattern(self) -> re.Pattern[str]:
        execute = rf"execute\.(?P<agent>{_T})\.(?P<task>{_T})"
        cancel = rf"cancel\.(?P<cancelled>{_T})"
        resume = rf"resume\.(?P<resumed_agent>{_T})\.(?P<resumed>{_T})\.(?P<interrupt>{_T})"
        return re.compile(rf"{re.escape(self.deployment)}\.cmd\.(?:{execute}|{cancel}|{resume})")

    def parse_command(self, subject: str) -> CommandSubject | None:
        """Read a command's subject; None if it is none of ours."""
        match = self._command_pattern.fullmatch(subject)
        if match is None:
            return None
        agent, task, cancelled, resumed_agent, resumed, interrupt = match.groups()
        if task is not None:
            return CommandSubject("execute", agent, task)
        if cancelled is not None:
            return CommandSubject("cancel", "", cancelled)
        return CommandSubject("resume", resumed_agent, resumed, interrupt)

    def parse_due(self, subject: str) -> tuple[str, str, int] | None:
        """Read the (agent, task, n) of a fired schedule's subject; None if it is none of ours."""
        match subject.split("."):
            case [self.deployment, "due", agent, task, n] if _all_tokens(agent, task) and n.isdecimal():
                return agent, task, int(n)
        return None

    def parse_cron_due(self, subject: str) -> str | None:
        """Read the name of the schedule of a fired timer's subject; None if it is none of ours."""
        match subject.split("."):
            case [self.deployment, "due", "cron", name] if is_token(name):
                return name
        return None

    def parse_task_event(self, subject: str) -> EventSubject | None:
        """Read the subject of a task's event, stored or live, log or output; None if it is none of ours."""
        tokens = subject.split(".")
        if len(tokens) > 1 and tokens[1] == "live":
            del tokens[1]
        match tokens:
            case [self.deployment, "evt", class_, agent, task] if class_ in EVENT_CLASSES and _all_tokens(
                agent, task
            ):
                return EventSubject(class_, agent, task)
            case [self.deployment, "out", agent, task] if _all_tokens(agent, task):
                return EventSubject("output", agent, task)
        return None


class CommandSubject(msgspec.Struct, frozen=True, gc=False):
    """A command's subject, read: ``kind`` is execute, cancel or resume; ``agent`` is empty for a cancel."""

    kind: str
    agent: str
    task: str
    interrupt: str = ""


class EventSubject(msgspec.Struct, frozen=True, gc=False):
    """The subject of a task's event, read: ``class_`` is task, step, progress, log or output."""

    class_: str
    agent: str
    task: str


def _all_tokens(*values: str) -> bool:
    return all(is_token(value) for value in values)
