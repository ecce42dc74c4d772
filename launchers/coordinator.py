"""Decide which ranks take part in an elastic run (`--elastic`); `launchers/torchrun.sh --elastic` starts it.

usage: coordinator.py HOST:PORT, with the secret of the run in BITSCALE_SECRET

It holds no weights: training goes on while it is gone, and ranks that need it wait until it is started again. It
listens on HOST only. Whoever does not know the secret is sent away; messages are lines of JSON, not encrypted.
"""

import asyncio
import errno
import hashlib
import hmac
import json
import os
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # its folder has modules that would hide other people's
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launchers.rounds import Message, Rounds

IN_USE = 3
"""Exit code where something listens at the address already."""
CANNOT_LISTEN = 4
"""Exit code where the address is none to listen at."""
_TICK_S = 0.02
_GREETING_S = 5.0  # in which a connection has to prove that it knows the secret
_LINE_BYTES = 1 << 20
_LAST_WORDS = {"closing", "expelled", "refused", "too_few", "finished"}


class Coordinator:
    """Serves `Rounds` to ranks that know the secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret, self._rounds = secret, Rounds()
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._connections = 0

    async def serve(self, host: str, port: int) -> None:
        """Serve until cancelled. Raises OSError if the address cannot be listened at."""
        server = await asyncio.start_server(self._connected, host, port, limit=_LINE_BYTES)
        print(f"coordinating at {host}:{server.sockets[0].getsockname()[1]}", flush=True)
        async with server:
            while True:
                await asyncio.sleep(_TICK_S)
                self._send(self._rounds.tick(time.monotonic()))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        key = self._connections
        try:
            hello = await asyncio.wait_for(self._greeted(reader, writer), _GREETING_S)
            if hello is None:
                return
            self._writers[key] = writer
            self._send(self._rounds.greet(key, hello, time.monotonic()))
            while line := await reader.readline():
                self._send(self._rounds.receive(key, json.loads(line), time.monotonic()))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, asyncio.TimeoutError):
            pass  # one that is gone, or that speaks otherwise
        finally:
            self._writers.pop(key, None)
            self._send(self._rounds.lose(key, "its process is gone"))
            writer.close()

    async def _greeted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message | None:
        """What a rank says of itself; None of one that does not know the secret."""
        challenge = secrets.token_hex(16)
        writer.write(to_line({"challenge": challenge}))
        hello: Message = json.loads(await reader.readline())
        if not hmac.compare_digest(str(hello.get("proof")), proof(self._secret, "rank", challenge)):
            writer.write(to_line({"stranger": True}))
            await writer.drain()
            return None
        writer.write(to_line({"proof": proof(self._secret, "coordinator", str(hello["challenge"]))}))
        return hello

    def _send(self, messages: list[tuple[Any, Message]]) -> None:
        for key, message in messages:
            writer = self._writers.get(key)
            if writer is None:
                continue
            writer.write(to_line(message))
            if message.keys() & _LAST_WORDS and "round" not in message:
                writer.close()


def proof(secret: bytes, who: str, challenge: str) -> str:
    """Shows that `who` knows the secret, without telling it."""
    return hmac.new(secret, f"{who} {challenge}".encode(), hashlib.sha256).hexdigest()


def to_line(message: Message) -> bytes:
    """A message as it is sent."""
    return json.dumps(message).encode() + b"\n"


def main() -> None:
    """Serve until a signal comes."""
    host, _, port = sys.argv[1].rpartition(":") if len(sys.argv) == 2 else ("", "", "")
    secret = os.environ.get("BITSCALE_SECRET", "")
    if not (host and port.isdigit() and secret):
        sys.exit(__doc__)
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in a job that is cancelled, whose ranks still save
            signal.signal(number, lambda *_: os._exit(0))
    try:
        asyncio.run(Coordinator(secret.encode()).serve(host, int(port)))
    except (OSError, UnicodeError, OverflowError) as error:  # the others: of a name or port that cannot be
        why = getattr(error, "strerror", None) or error
        print(
            f"{host}:{port} cannot be listened at ({why}); unless the coordinator of this run is "
            "there already, name another HOST:PORT",
            file=sys.stderr,
        )
        sys.exit(IN_USE if getattr(error, "errno", None) == errno.EADDRINUSE else CANNOT_LISTEN)


if __name__ == "__main__":
    main()
