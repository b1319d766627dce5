"""Which subjects a connection listens to: told to the server now, and again after every reconnect.

Sids are ours (``c1``, ``c2``), apart from the numbers that nats-py gives out for its own. The handlers are shared
with the parser, which looks them up by sid. Whether the connection is up is the link's to know.
"""

from __future__ import annotations

from cas_events.errors import InvalidSubjectError
from cas_events.jetstream.links import Link
from cas_events.jetstream.parser import Handler

SUBJECT_LENGTH_MAX = 1024  # A server cuts control lines at 4,096 bytes, and a reply subject goes with it.


class Subscription:
    """Interest in a subject, until `unsubscribe`."""

    def __init__(self, registry: Subscriptions, sid: bytes, subject: str, queue: str) -> None:
        self._registry = registry
        self.sid = sid
        self.subject = subject
        self.queue = queue

    def unsubscribe(self) -> None:
        """End it; the handler is not called again. Safe at any time, also twice, also while disconnected."""
        self._registry.silence(self)
        self._registry.handlers.pop(self.sid, None)

    def silence(self) -> None:
        """Tell the server to send no more, but still hand over what is on its way until `unsubscribe`."""
        self._registry.silence(self)


class Subscriptions:
    """All of one connection.

    Attributes:
        handlers: by sid, for the parser.
        link: where to tell the server; None until the first connect.
    """

    def __init__(self) -> None:
        self.handlers: dict[bytes, Handler] = {}
        self.link: Link | None = None
        self._active: dict[bytes, Subscription] = {}
        self._sids = 0

    def add(self, subject: str, handler: Handler, queue: str) -> Subscription:
        """Register, and tell the server if there is a connection."""
        for text in (subject, queue or "-"):
            check_subject(text)
        self._sids += 1
        subscription = Subscription(self, b"c%d" % self._sids, subject, queue)
        self._active[subscription.sid] = subscription
        self.handlers[subscription.sid] = handler
        if self.link is not None:
            self.link.subscribe(subscription.sid, subject, queue)
        return subscription

    def silence(self, subscription: Subscription) -> None:
        """Tell the server to send no more; the handler stays for what is on its way."""
        if self._active.pop(subscription.sid, None) is not None and self.link is not None:
            self.link.unsubscribe(subscription.sid)

    def replay(self) -> None:
        """Tell a server that knows none of them."""
        assert self.link is not None
        for subscription in self._active.values():
            self.link.subscribe(subscription.sid, subscription.subject, subscription.queue)


def check_subject(subject: str) -> None:
    """Refuse what would break the protocol: line breaks would inject operations.

    Raises:
        InvalidSubjectError: it is empty, too long, or has blanks or control characters.
    """
    if not subject or " " in subject or not subject.isprintable() or len(subject) > SUBJECT_LENGTH_MAX:
        raise InvalidSubjectError(subject)
