"""The analyst of a specification: reads it, checks it, says what is unclear. Executes nothing of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cas_events.agents import model as models
from cas_events.agents.feature_development.spec import Spec, check_spec, parse_spec
from cas_events.agents.feature_development.work import FeatureInput
from cas_events.agents.tree import FILE_BYTES_MAX, read_text, resolve_root, shown_path
from cas_events.errors import InvalidCommandError, PathNotFoundError
from cas_events.runner.context import TaskContext

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

SPEC_CHARS_MAX = 100_000


async def specify(ctx: TaskContext, request: FeatureInput, *, model: BaseChatModel | None = None) -> Spec:
    """The specification of a file or text; free prose needs a model.

    Raises:
        PathNotFoundError: there is no such file.
        InvalidCommandError: it is no specification; the message says what is missing.
    """
    if bool(request.path) == bool(request.text):
        raise InvalidCommandError('give either "path" or "text"', field="input")
    text = request.text or await asyncio.to_thread(_read, request.path)
    try:
        spec = parse_spec(text)
    except InvalidCommandError:
        answer = await models.consult(
            ctx,
            models.read_prompt(__package__, "analyst"),
            Spec,
            {"text": text},
            model=model,
            check=_check,
        )
        if answer is None:
            raise
        spec = answer
    examples = sum(len(function.examples) for function in spec.functions)
    ctx.log.info("specification read", module=spec.module, functions=len(spec.functions), examples=examples)
    for function in spec.functions:
        if not function.examples:
            ctx.log.warning("without examples", function=function.name)
    return spec


def _check(spec: Spec) -> None:
    check_spec(spec)  # Its InvalidCommandError is a ValueError, too.


def _read(path: str) -> str:
    file = resolve_root(path)
    if not file.is_file():
        raise InvalidCommandError(
            f"{shown_path(path)!r} is a folder; name the specification's file", field="input.path"
        )
    try:
        size = file.stat().st_size
        text = read_text(str(file))
    except OSError as error:
        raise PathNotFoundError(shown_path(path), (error.strerror or "unreadable").lower()) from error
    if size > FILE_BYTES_MAX or len(text) > SPEC_CHARS_MAX:
        raise InvalidCommandError(
            f"{shown_path(path)!r} has {size} bytes; a specification has at most {SPEC_CHARS_MAX} characters",
            field="input.path",
        )
    if "\0" in text:
        raise InvalidCommandError(f"{shown_path(path)!r} is a binary file", field="input.path")
    return text
