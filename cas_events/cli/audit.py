"""`cas audit`: the key that signs the log, bundles for auditors, and their check. What they prove: docs/audit.md."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cas_events.cli.options import Json
from cas_events.cli.output import json_bytes, note, say
from cas_events.cli.session import ask
from cas_events.errors import BundleError, PathNotFoundError, TamperedError
from cas_events.settings import Settings

if TYPE_CHECKING:
    from cas_events.audit.bundle import Exported
    from cas_events.audit.report import Report
    from cas_events.wire.audit import Proof

app = typer.Typer(
    help="Signed heads of the log: show the key, export a bundle, verify one offline, or the server's log.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_TELL_EVERY = 100_000  # messages
_SHOWN = 20
_UNPINNED = (
    "without --key this is only as trustworthy as where it comes from: anybody can sign with a new key"
)


@app.command("key")
def key(json: Json = False) -> None:
    """Show the public key with which this home signs; makes the key if there is none yet.

    Give it to auditors by a way of its own: `cas audit verify BUNDLE --key …` then accepts no other.
    """
    from cas_events.audit.keys import FILE_NAME, SigningKey  # noqa: PLC0415 - see the package's docstring

    home = Settings.from_env().home
    public_key = SigningKey.load_or_create(home).public_key
    if json:
        say(json_bytes({"public_key": public_key, "file": str(home / FILE_NAME)}).decode())
    else:
        say(public_key)


@app.command("export")
def export(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The file to write (gzipped JSON lines).")],
    from_seq: Annotated[
        int, typer.Option("--from-seq", metavar="SEQ", min=1, help="First event (commands come whole).")
    ] = 1,
    to_seq: Annotated[
        int | None, typer.Option("--to-seq", metavar="SEQ", min=1, help="Last event; default: the newest.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the commands, the events and the signed heads into one file, for `cas audit verify`."""
    done = ask(_export(bundle, from_seq, to_seq))
    if json:
        say(json_bytes({"bundle": str(bundle), **_described(done)}).decode())
    else:
        say(f"{done.messages:,} messages and {done.heads:,} heads in {bundle}")
        if not done.heads:
            note("no head is in the log yet: a projector signs it (`cas projector --help`)")


@app.command("prove")
def prove(
    seq: Annotated[int, typer.Argument(metavar="SEQ", min=1, help="The message's sequence.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write (JSON).")],
    commands: Annotated[bool, typer.Option("--commands", help="Of a command, instead of an event.")] = False,
) -> None:
    """Write the proof that one message is in the signed log, for whoever may not see the rest; `cas audit verify FILE` checks it."""
    if file.exists():
        raise BundleError(f"{file} is there already; name another file")
    proof = ask(_prove(seq, commands=commands))
    file.write_bytes(json_bytes(proof) + b"\n")
    say(f"{proof.message.stream} {seq} is under the head at {proof.head.seq}; proof in {file}")


async def _prove(seq: int, *, commands: bool) -> Proof:
    from cas_events.audit import proof  # noqa: PLC0415 - see the package's docstring
    from cas_events.jetstream.connection import Connection  # noqa: PLC0415
    from cas_events.wire.subjects import Names  # noqa: PLC0415

    settings = Settings.from_env()
    names = Names(settings.deployment)
    async with await Connection.open(settings.url(), name="cas-command") as connection:
        return await proof.prove(connection, names, names.commands if commands else names.events, seq)


@app.command("verify")
def verify(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE]", help="The file; without it, the log of the server.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="PUBKEY", help="Only heads of this public key count.")
    ] = None,
    json: Json = False,
) -> None:
    """Check a bundle or a proof without a server, or the server's log: what was altered, dropped or put in is named.

    Exit code 0: all that heads cover is as it was signed; 1: it is not; 2: wrong usage, or no such file.
    """
    from cas_events.audit.keys import parse_public_key  # noqa: PLC0415 - see the package's docstring
    from cas_events.audit.verify import verify_bundle  # noqa: PLC0415

    pinned = parse_public_key(key) if key is not None else ""
    if bundle is None:
        with tempfile.TemporaryDirectory(prefix="cas-audit-") as folder:
            copy = Path(folder) / "log.bundle"
            ask(_export(copy, 1, None))
            report = verify_bundle(copy, key=pinned)
    elif not bundle.exists():
        raise PathNotFoundError(str(bundle))
    elif _begins_with_brace(bundle):
        _verify_proof(bundle, pinned, json=json)
        return
    else:
        report = verify_bundle(bundle, key=pinned)
    if json:
        say(json_bytes(report).decode())
    else:
        _print(report)
    if not report.is_good:
        raise TamperedError(report.fault_count, str(report.faults[0]))


def _begins_with_brace(file: Path) -> bool:
    """Whether it is a proof; bundles are gzipped."""
    with file.open("rb") as stream:
        return stream.read(1) == b"{"


def _verify_proof(file: Path, pinned: str, *, json: bool) -> None:
    from cas_events.audit.proof import check_proof  # noqa: PLC0415 - see the package's docstring
    from cas_events.wire.audit import decode_proof  # noqa: PLC0415

    proof = decode_proof(file.read_bytes())
    head = check_proof(proof, key=pinned)
    if json:
        found = {"stream": proof.message.stream, "seq": proof.message.seq, "head": proof.head.seq}
        say(json_bytes({**found, "public_key": head.public_key, "is_pinned": bool(pinned)}).decode())
        return
    say(f"{proof.message.stream} {proof.message.seq} is in the log that {head.public_key} signed")
    if not pinned:
        note(_UNPINNED)


async def _export(bundle: Path, from_seq: int, to_seq: int | None) -> Exported:
    from cas_events.audit.bundle import export  # noqa: PLC0415 - see the package's docstring
    from cas_events.jetstream.connection import Connection  # noqa: PLC0415
    from cas_events.wire.envelope import format_time  # noqa: PLC0415
    from cas_events.wire.subjects import Names  # noqa: PLC0415

    settings = Settings.from_env()
    async with await Connection.open(settings.url(), name="cas-command") as connection:
        return await export(
            connection,
            Names(settings.deployment),
            bundle,
            time=format_time(time.time_ns()),
            from_seq=from_seq,
            to_seq=to_seq,
            tell=_teller(),
        )


def _teller() -> Callable[[int], None]:
    def tell(done: int) -> None:
        if not done % _TELL_EVERY:
            note(f"{done:,} messages")

    return tell


def _described(done: Exported) -> dict[str, object]:
    return {
        "messages": done.messages,
        "heads": done.heads,
        "streams": done.streams,
        "public_keys": done.public_keys,
    }


def _print(report: Report) -> None:
    say(f"{report.messages:,} messages of {report.deployment}, {report.heads:,} heads")
    for stream, proved in report.proved.items():
        what = f"{proved[0]:,} to {proved[1]:,} signed" if proved else "nothing signed"
        say(f"{stream}: {what}, {report.unproved[stream]:,} without a head")
    for public_key in report.public_keys:
        say(f"key {public_key}" + ("" if report.is_pinned else " (found in the log; pin it with --key)"))
    if not report.is_pinned:
        note(
            "without --key this is only as trustworthy as where it comes from: anybody can sign with a new key"
        )
    if report.ignored_heads:
        note(
            f"{report.ignored_heads:,} messages in the heads' place were ignored: of other keys, or no heads"
        )
    for fault in report.faults[:_SHOWN]:
        say(str(fault))
