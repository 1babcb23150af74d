"""The socket that the server listens on."""

from __future__ import annotations

import asyncio
import socket

from florilegium.serve.settings import ServeSettings, listen


def test_pieces_of_a_text_do_not_wait_for_each_other() -> None:
    """Without TCP_NODELAY a second small write waits until the first is acknowledged: 40 ms on Linux."""

    async def option() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            accepted.set_result(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        server = await asyncio.start_server(serve, sock=listen(ServeSettings(port=0)))
        async with server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            found = await asyncio.wait_for(accepted, 30)
            writer.close()
        return found

    assert asyncio.run(option())
