"""Adapter between DJL Serving and the chat service. The only file that knows `djl_python`.

Every failure becomes an output: what escapes from here leaves DJL's client waiting or with a reply that says nothing.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

from djl_python import Input, Output
from djl_python.python_async_engine import REQUEST_TRACKING_ID_KEY

from chatglm2.control import serve_control
from chatglm2.errors import ChatError, SetupError
from chatglm2.logs import configure
from chatglm2.service import Call, ChatService
from chatglm2.settings import read_settings
from chatglm2.startup import load

QUICKEST_REPLY = 0.02
"""Seconds. If a reply of one part arrives just when DJL Serving 0.36 starts to wait for it, it is lost and the client
waits for ever: DJL's ChunkedBytesSupplier says that it has ended before it holds the last part. A stream's last part is
empty and may be lost."""

OPTIONS = {
    "model_id": "model",
    "revision": "revision",
    "tensor_parallel_degree": "tensor_parallel",
    "pipeline_parallel_degree": "pipeline_parallel",
}
"""DJL's own names, as `option.` in serving.properties, and the settings that they are."""

service: ChatService | None = None
control: asyncio.Server | None = None


async def handle(inputs: Input) -> Output | AsyncGenerator[Output, None] | None:
    """DJL's entry point: the first, empty call loads the model, every other one is a request."""
    if service is None:
        return await start(inputs.get_properties())
    began = time.monotonic()
    try:
        reply = await service.handle(_call(inputs))
    except ChatError as error:
        output = _output("application/json", "", error=str(error), code=error.status)
    else:
        if not isinstance(reply.body, str):
            return _stream(reply.content_type, reply.body, inputs.get_property(REQUEST_TRACKING_ID_KEY))
        output = _output(reply.content_type, reply.body)
    await asyncio.sleep(began + QUICKEST_REPLY - time.monotonic())
    return output


async def start(properties: dict[str, str]) -> None:
    """Load the model; what `OPTIONS` in serving.properties say goes before the environment.

    DJL Serving sends nothing else until this returns, and would wait for an hour after a failure: so the worker ends
    itself, which whoever started the server sees.
    """
    global service, control  # noqa: PLW0603 - DJL calls module functions
    configure()
    given = {setting: properties[option] for option, setting in OPTIONS.items() if properties.get(option)}
    try:
        settings = read_settings(**given)
        loaded = asyncio.get_running_loop().create_future()
        if settings.control_socket is not None:
            control = await serve_control(loaded, settings.control_socket, settings.drain_seconds, _end_all)
        service = await asyncio.to_thread(load, settings)
    except Exception as error:
        print(f"chatglm2: {error if isinstance(error, SetupError) else repr(error)}", file=sys.stderr, flush=True)
        os._exit(1)
    loaded.set_result(service)


def _end_all() -> None:
    """End Java, this worker's parent, and the worker, which Java leaves behind. Without their starter nobody would."""
    os.kill(os.getppid(), signal.SIGTERM)
    os._exit(1)


def _call(inputs: Input) -> Call:
    contents = inputs.get_content().get_values()  # the query's values, then the body; an empty form has none
    return Call(
        bytes(contents[-1]) if contents else b"",
        inputs.get_property("Content-Type"),
        inputs.get_property("Authorization"),
    )


async def _stream(content_type: str, parts: AsyncGenerator[str, None], request: str) -> AsyncGenerator[Output, None]:
    def add(data: str, last: bool) -> bool:
        """Let a part wait; whether it is the first that waits, for which DJL must be called."""
        part = _output(content_type, data, last)
        part.add_property(REQUEST_TRACKING_ID_KEY, request)  # DJL does it for what it is given
        _waiting.append(part)
        return len(_waiting) == 1  # after, for DJL's thread takes parts meanwhile

    async with contextlib.aclosing(parts):
        async for part in parts:
            if add(part, last=False):
                yield _Waiting()
    if add("", last=True):
        yield _Waiting()


_waiting = deque[Output]()
"""Parts of all streams that are not sent yet."""


class _Waiting(Output):
    """In its place all parts that wait are sent.

    DJL's thread that sends asks the event loop for each output anew, and that takes longer than to make one.
    """

    def send(self, cl_socket: Any) -> None:
        """As DJL calls it."""
        while _waiting:
            messages = _Messages()
            for _ in range(len(_waiting)):  # not until none waits: the first ones would wait for the last
                _waiting.popleft().send(messages)
            cl_socket.sendall(b"".join(messages))


class _Messages(list[bytes]):
    """A socket that keeps what outputs send."""

    sendall = list[bytes].append


def _output(content_type: str, data: str, last: bool = True, **error: str | int) -> Output:
    output = Output()
    output.add_property("Content-Type", content_type)
    output.add(Output.binary_encode({"data": data, "last": last, **error}))
    return output
