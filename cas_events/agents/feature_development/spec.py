"""A specification: functions with rules and examples, and how it is read from Markdown.

    # Text tools

    ## `slugify(text: str) -> str`

    Turn a title into a part of a URL.

    - Lower case.
    - Replace everything but letters and digits with "-".
    - `slugify("Hello, World!")` gives `"hello-world"`
    - `slugify(3)` raises `TypeError`

A list item with a call and a result is an example, any other is a rule; rules are applied in their order. Signatures,
arguments and results are literals and names of built-in types: a specification is data and runs no code.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from markdown_it import MarkdownIt

from cas_events.errors import InvalidCommandError

FUNCTIONS_MAX = 30
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z_][a-z0-9_]{0,40}$")]
Text = Annotated[str, msgspec.Meta(max_length=2_000)]

_SIGNATURE = re.compile(r"^`?(?P<signature>[a-z_]\w*\(.*\)(?:\s*->\s*.+?)?)`?$")
_EXAMPLE = re.compile(
    r"^`(?P<call>[a-z_]\w*\(.*?\))`\s*(?P<verb>gives|returns|is|=|==|->|→|raises)\s*`(?P<result>.+?)`[.]?$"
)
_TYPES = frozenset({"str", "int", "float", "bool", "bytes", "list", "dict", "set", "tuple", "None"})


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A call and what comes of it.

    Attributes:
        call: source of the call, all of its arguments literals.
        gives: source of the expected literal; empty where it raises.
        raises: name of the built-in exception; empty where it gives something.
    """

    call: Text
    gives: Text = ""
    raises: Text = ""


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """One function that is wanted."""

    name: Name
    signature: Text
    summary: Text = ""
    rules: tuple[Text, ...] = ()
    examples: tuple[Example, ...] = ()


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted: the functions of one module."""

    title: Annotated[str, msgspec.Meta(max_length=200)]
    module: Name
    functions: Annotated[tuple[Function, ...], msgspec.Meta(min_length=1, max_length=FUNCTIONS_MAX)]


def parse_spec(text: str) -> Spec:
    """Read a specification.

    Raises:
        InvalidCommandError: it has no function, or one that is written wrongly; the message quotes it.
    """
    title, functions = "", list[Function]()
    for kind, content in _blocks(text):
        signature = _SIGNATURE.match(content) if kind == "heading" else None
        if signature:
            functions.append(_function(signature["signature"]))
        elif kind == "heading":
            title = title or content.strip("` ")
        elif functions:
            functions[-1] = _extended(functions[-1], kind, content)
    if not functions:
        raise InvalidCommandError(
            "the specification has no function: write each as a heading such as ## `slugify(text: str) -> str`",
            field="input",
        )
    title = title or functions[0].name
    return check_spec(Spec(title=title[:200], module=module_name(title), functions=tuple(functions)))


def module_name(title: str) -> str:
    """A module's name from a title."""
    name = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:40]
    return name if re.match(r"[a-z]", name) else f"feature_{name}".rstrip("_")


def check_spec(spec: Spec) -> Spec:
    """The specification itself, if nothing in it is more than data.

    Raises:
        InvalidCommandError: a signature, a call or a result is not of the plain kind, or a name is used twice.
    """
    names = [function.name for function in spec.functions]
    if len(set(names)) < len(names):
        raise InvalidCommandError(f"a function is specified twice: {', '.join(names)}", field="input")
    for function in spec.functions:
        parse_signature(function.signature)
        for example in function.examples:
            parse_call(example.call, function.name)
            if example.raises:
                _exception(example.raises)
            else:
                _literal(example.gives)
    return spec


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Headings, list items and paragraphs of a document, in order, as (kind, source)."""
    depth, is_heading = 0, False
    for token in MarkdownIt("commonmark").parse(text):
        depth += token.nesting if token.type.startswith("list_item") else 0
        is_heading = token.type == "heading_open" or (is_heading and token.type == "inline")
        if token.type == "inline":
            kind = "heading" if is_heading else "item" if depth else "paragraph"
            yield kind, " ".join(token.content.split())


def _function(signature: str) -> Function:
    return Function(name=signature.partition("(")[0], signature=signature)


def _extended(function: Function, kind: str, content: str) -> Function:
    """The function with one more list item or paragraph."""
    if kind == "paragraph":
        is_label = content.endswith(":") and len(content) < 40
        return (
            function if function.summary or is_label else msgspec.structs.replace(function, summary=content)
        )
    found = _EXAMPLE.match(content)
    if found is None:
        return msgspec.structs.replace(function, rules=(*function.rules, content))
    raises = found["verb"] == "raises"
    example = Example(
        call=found["call"],
        gives="" if raises else found["result"],
        raises=found["result"] if raises else "",
    )
    return msgspec.structs.replace(function, examples=(*function.examples, example))


def parse_signature(signature: str) -> ast.FunctionDef:
    """The signature as a definition without a body.

    Raises:
        InvalidCommandError: it is none, or holds more than names, built-in types and literals.
    """
    try:
        node = ast.parse(f"def {signature}: ...").body[0]
        if not isinstance(node, ast.FunctionDef) or not node.args.args:
            raise ValueError("it has no parameter")  # noqa: TRY301 - of the user's text
        _check_arguments(node)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as problem:
        raise InvalidCommandError(
            f"signature {signature[:120]!r} is not usable: {str(problem)[:120]}", field="input"
        ) from None
    return node


def _check_arguments(node: ast.FunctionDef) -> None:
    arguments = node.args
    if arguments.vararg or arguments.kwarg or arguments.posonlyargs:
        raise ValueError("only plain parameters can be specified")
    for default in (*arguments.defaults, *(value for value in arguments.kw_defaults if value)):
        ast.literal_eval(default)
    _check_hint(node.returns)
    for argument in (*arguments.args, *arguments.kwonlyargs):
        _check_hint(argument.annotation)


def _check_hint(hint: ast.expr | None) -> None:
    for node in ast.walk(hint) if hint is not None else ():
        if isinstance(node, ast.Name) and node.id not in _TYPES:
            raise ValueError(f"{node.id} is no built-in type")
        if isinstance(node, ast.Call | ast.Attribute | ast.Lambda):
            raise ValueError("a type is written with names and brackets")  # noqa: TRY004 - of the user's text


def parse_call(call: str, name: str) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of an example's call.

    Raises:
        InvalidCommandError: it is not a call of that function with literals.
    """
    try:
        node = ast.parse(call, mode="eval").body
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name):
            raise ValueError(f"not a call of {name}")  # noqa: TRY301
        keywords = {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg}
        return [ast.literal_eval(argument) for argument in node.args], keywords
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise InvalidCommandError(
            f"example {call[:120]!r} is not a call of {name} with literal arguments", field="input"
        ) from None


def _literal(source: str) -> None:
    try:
        ast.literal_eval(source)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise InvalidCommandError(f"result {source[:120]!r} is not a literal", field="input") from None


def _exception(name: str) -> None:
    found = getattr(builtins, name, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise InvalidCommandError(f"{name[:120]!r} is no built-in exception", field="input")
