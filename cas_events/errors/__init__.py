"""The one tree of errors, by section; import them from here.

Every error carries its context as attributes, says in its message what failed, with which value, and what to do,
and imports nothing from the package. Server errors are told apart by their JetStream error code, never by text.
"""

from __future__ import annotations

from cas_events.errors.agents import (
    AgentProcessDiedError,
    AgentProcessError,
    InvalidInputError,
    InvalidLimitError,
    NonRetryableError,
)
from cas_events.errors.audit import (
    AuditError,
    AuditExtraMissingError,
    AuditKeyError,
    BundleError,
    TamperedError,
)
from cas_events.errors.checkpoints import (
    CheckpointFencedError,
    CheckpointUnreadableError,
    SyncOnLoopError,
    ThreadBusyError,
)
from cas_events.errors.children import (
    AttemptOverError,
    CallCycleError,
    ChildConflictError,
    ChildTaskError,
    NotInTaskError,
)
from cas_events.errors.memory import MemoryNameError, MemoryUnreadableError, MemoryValueError
from cas_events.errors.observing import MetricsAddressError, NotReadyError, ObserveExtraMissingError
from cas_events.errors.requests import (
    AgentUnavailableError,
    DuplicateTaskError,
    InvalidCommandError,
    InvalidHeaderError,
    InvalidNameError,
    InvalidSubjectError,
    NotJsonError,
    PayloadTooLargeError,
    TaskNotEndedError,
    UnknownTaskError,
)
from cas_events.errors.root import CasEventsError
from cas_events.errors.samples import (
    ModelFailedError,
    ModelRefusedError,
    PathNotFoundError,
    ToolFailedError,
    ToolsMissingError,
)
from cas_events.errors.servers import (
    ConnectionLostError,
    NoRespondersError,
    NotConnectedError,
    NotFoundError,
    RefusedError,
    ServerError,
    ServerFeatureError,
    ServerNotConfiguredError,
    ServerStartError,
    ServerUnreachableError,
    StoreLockedError,
    StreamFullError,
    StreamRewoundError,
    StreamUnavailableError,
    TopologyMismatchError,
    WrongLastSequenceError,
)
from cas_events.errors.states import InvalidStateError, StateConflictError, UnknownAgentError
from cas_events.errors.tables import (
    FileInUseError,
    LogCutError,
    OtherLogError,
    OtherVersionError,
    ProjectionError,
    QueryError,
    VerificationError,
)
from cas_events.errors.wire import BlobError, WireError

__all__ = [
    "AgentProcessDiedError",
    "AgentProcessError",
    "AgentUnavailableError",
    "AttemptOverError",
    "AuditError",
    "AuditExtraMissingError",
    "AuditKeyError",
    "BlobError",
    "BundleError",
    "CallCycleError",
    "CasEventsError",
    "CheckpointFencedError",
    "CheckpointUnreadableError",
    "ChildConflictError",
    "ChildTaskError",
    "ConnectionLostError",
    "DuplicateTaskError",
    "FileInUseError",
    "InvalidCommandError",
    "InvalidHeaderError",
    "InvalidInputError",
    "InvalidLimitError",
    "InvalidNameError",
    "InvalidStateError",
    "InvalidSubjectError",
    "LogCutError",
    "MemoryNameError",
    "MemoryUnreadableError",
    "MemoryValueError",
    "MetricsAddressError",
    "ModelFailedError",
    "ModelRefusedError",
    "NoRespondersError",
    "NonRetryableError",
    "NotConnectedError",
    "NotFoundError",
    "NotInTaskError",
    "NotJsonError",
    "NotReadyError",
    "ObserveExtraMissingError",
    "OtherLogError",
    "OtherVersionError",
    "PathNotFoundError",
    "PayloadTooLargeError",
    "ProjectionError",
    "QueryError",
    "RefusedError",
    "ServerError",
    "ServerFeatureError",
    "ServerNotConfiguredError",
    "ServerStartError",
    "ServerUnreachableError",
    "StateConflictError",
    "StoreLockedError",
    "StreamFullError",
    "StreamRewoundError",
    "StreamUnavailableError",
    "SyncOnLoopError",
    "TamperedError",
    "TaskNotEndedError",
    "ThreadBusyError",
    "ToolFailedError",
    "ToolsMissingError",
    "TopologyMismatchError",
    "UnknownAgentError",
    "UnknownTaskError",
    "VerificationError",
    "WireError",
    "WrongLastSequenceError",
]
