"""More atomic batches open than the server has room for, by others: nobody's lifecycle waits for them (promise 1).

A stream has room for 50 open batches unless its server says otherwise (the embedded one says 1,000). What is written
beside them, also on a subject that an open batch has written to, is none of their business; the batches that find no
room are refused at once (10210), and what refused ones commit later is refused too (10176).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection, build_header
from cas_events.jetstream.topology import ensure_streams
from cas_events.wire.subjects import Names
from tests.harness.nats_process import nats_process

BATCHES, ROOM = 60, 50
NO_ROOM, INCOMPLETE = 10210, 10176


async def test_open_batches_hold_up_no_lifecycle(tmp_path: Path, deployment: str) -> None:
    names = Names(deployment)
    with nats_process(tmp_path) as port:
        async with await Connection.open(f"nats://127.0.0.1:{port}", name="batches") as connection:
            js = JetStream(connection)
            await ensure_streams(js, deployment)

            async def part(n: int, number: int, **more: str) -> int:
                """Send one part of a batch; the server's error code, 0 for none."""
                header = build_header({"Nats-Batch-Id": f"b{n}", "Nats-Batch-Sequence": str(number), **more})
                subject = names.lifecycle("echo", f"t{n}-{number}")
                answer = await connection.request(subject, b"{}", header=header, timeout_s=20)
                error = json.loads(answer.data).get("error") if answer.data else None
                return error["err_code"] if error else 0

            opened = await asyncio.gather(*(part(n, 1) for n in range(BATCHES)))
            assert Counter(opened) == {0: ROOM, NO_ROOM: BATCHES - ROOM}
            for n in (0, BATCHES):  # A subject that an open batch has written to, and one of nobody.
                subject = names.lifecycle("echo", f"t{n}-1")
                assert (await js.append(subject, b'{"own":1}', expected_last_seq=0)).seq > 0
            committed = await asyncio.gather(
                *(part(n, 2, **{"Nats-Batch-Commit": "1"}) for n in range(BATCHES))
            )
            assert Counter(committed) == {0: ROOM, INCOMPLETE: BATCHES - ROOM}
