"""An OpenAI-compatible chat server on loopback: streams answers in chunks, records requests, sees clients leave.

Each test says what it answers with a function from the request to a text; a text of None never ends: it streams a word
again and again until the client closes. An answer may also be a status, as an error of the provider.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Answer = str | int | None
CHUNK_CHARS = 40


class ChatStub:
    """The server, in a thread of its own.

    Attributes:
        answer: what it says to a request's body.
        requests: bodies so far.
        keys: the keys that came with them.
        open: answers that are being streamed.
        closed: answers that the client left before their end.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Answer]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.open = 0
        self.closed = 0
        app = Starlette(routes=[Route("/v1/chat/completions", self._complete, methods=["POST"])])
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    @property
    def url(self) -> str:
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/v1"

    @property
    def is_up(self) -> bool:
        return self._server.started

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10)

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        self.keys.append(request.headers.get("authorization", ""))
        answer = self.answer(body)
        if isinstance(answer, int):
            # As providers do, it repeats the key that it refuses.
            message = f"Incorrect API key provided: {self.keys[-1]}"
            return JSONResponse({"error": {"message": message}}, status_code=answer)
        return StreamingResponse(self._stream(answer), media_type="text/event-stream")

    async def _stream(self, answer: str | None) -> AsyncIterator[str]:
        self.open += 1
        is_whole = False
        try:
            if answer is None:
                while True:
                    yield _chunk("word ")
                    await asyncio.sleep(0.02)
            for start in range(0, len(answer), CHUNK_CHARS):
                yield _chunk(answer[start : start + CHUNK_CHARS])
            yield _chunk(None)
            is_whole = True
            yield "data: [DONE]\n\n"
        finally:
            self.open -= 1
            self.closed += not is_whole


def _chunk(text: str | None) -> str:
    choice = {
        "index": 0,
        "delta": {} if text is None else {"role": "assistant", "content": text},
        "finish_reason": "stop" if text is None else None,
    }
    part = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "stub", "choices": [choice]}
    return f"data: {json.dumps(part)}\n\n"
