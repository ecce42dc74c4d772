"""A rank's connection to the coordinator of an elastic run, `launchers/coordinator.py`: it decides who takes part."""

import hashlib
import hmac
import json
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import logger
from trainer.engine import RankLostError

_BEAT_S = 1.0
CONNECT_S, _RETRY_S, _POLL_S = 5.0, 0.5, 0.2
_UNANSWERED_S = 10.0
PATIENCE_S = 300.0
"""To wait for a coordinator that is gone, once it is needed."""
_RESTART_CODE = 75  # launchers start such a rank again
_ENDINGS = ("expelled", "refused", "too_few", "finished")
Message = dict[str, Any]


class Membership:
    """One rank's side. A thread keeps the connection, and connects again when it breaks; training needs none.

    `hello` is what the coordinator needs to know of this rank: name, host, place, store, settings (see
    `launchers/rounds.py`). `on_loss` is called by that thread, with words, when another member is lost. Raises
    InputError for a coordinator that is not there within `connect_s`, or has another secret.
    """

    def __init__(
        self, address: str, secret: str, hello: Message, on_loss: Callable[[str], None], connect_s: float = 0.0
    ) -> None:
        self.address, self._secret, self._hello, self._on_loss = address, secret.encode(), hello, on_loss
        self.joiners_wait = False
        """Whether ranks wait to join; False again with each round."""
        self.lost: str | None = None
        """A member of the last round that is lost; None without one."""
        self._round, self._rank, self._world_size, self._facts = 0, -1, 0, Message()
        self._changed = threading.Condition()
        self._answer: Message | None = None
        self._is_running: bool | None = None
        self._ending: tuple[str, str] | None = None
        self._pending: Message | None = None
        self._connection: _Connection | None = None
        self._away_since = time.monotonic()
        self._closed = False
        self._await_coordinator(connect_s)
        threading.Thread(target=self._keep, name="membership", daemon=True).start()

    def _await_coordinator(self, connect_s: float) -> None:
        """Connect. The node that it is on may start later than this one."""
        until = time.monotonic() + connect_s
        while True:
            try:
                return self._connect()
            except ValueError as error:
                raise InputError(
                    f"what listens at {self.address} is no coordinator; start the run with launchers/torchrun.sh "
                    "--elastic, with another --endpoint, the same on all nodes"
                ) from error
            except OSError as error:
                if time.monotonic() < until:
                    time.sleep(_RETRY_S)
                    continue
                raise InputError(
                    f"the coordinator at {self.address} cannot be reached ({error.strerror or error}); start the run "
                    "with launchers/torchrun.sh --elastic, with the same --endpoint on all nodes"
                ) from error

    def introduce(self, facts: Message) -> None:
        """Tell what must be the same on all ranks: those that join are compared by it."""
        self._facts = facts
        self._send({"facts": facts})

    def is_running(self) -> bool:
        """Whether others train already, so that this rank has to join them."""
        while self._is_running is None:
            self._end_if_told()
            self._require_coordinator()
            with self._changed:
                self._changed.wait_for(lambda: self._is_running is not None or self._ending is not None, _POLL_S)
        self._end_if_told()
        return bool(self._is_running)

    def begin(self) -> Message | None:
        """Wait for the first round; returns its description, None if others begin without this rank."""
        return self._ask(-1, True, lambda: False)

    def regroup(self, step: int, is_stopping: Callable[[], bool]) -> Message:
        """Wait for the next round, with weights after `step` updates; -1: none. `is_stopping`: whether this rank would
        rather stop. Raises RankLostError if the coordinator has been gone for long, SystemExit if this rank is to end.
        """
        answer = self._ask(step, False, is_stopping)
        assert answer is not None
        return answer

    def _ask(self, step: int, begins: bool, is_stopping: Callable[[], bool]) -> Message | None:
        stopping = is_stopping()
        with self._changed:
            self._answer, self._is_running = None, None
        self._pending = {"step": step, "begins": begins, "stopping": stopping}
        self._send({"ask": self._pending})
        while True:
            with self._changed:
                self._changed.wait_for(self._is_answered, _POLL_S)
                if self._is_running and begins:
                    self._pending = None
                    return None
                if self._answer is not None:
                    return self._answer
            self._end_if_told()
            self._require_coordinator()
            if is_stopping() and not stopping:
                stopping = True
                self._pending = {"step": step, "begins": begins, "stopping": True}
                self._send({"ask": self._pending})

    def _is_answered(self) -> bool:
        return self._answer is not None or bool(self._is_running) or self._ending is not None

    def _require_coordinator(self) -> None:
        if self._connection is None and time.monotonic() - self._away_since > PATIENCE_S:
            raise RankLostError(f"the coordinator at {self.address} has been gone for {PATIENCE_S:.0f} s")

    def _end_if_told(self) -> None:
        """Raise what the coordinator has told this rank to end by."""
        if self._ending is None:
            return
        kind, why = self._ending
        if kind == "finished":
            logger.info("the run has ended meanwhile; there is nothing to join")
            raise SystemExit(0)
        if kind == "refused":
            raise InputError(f"this rank cannot join the run, which goes on without it: {why}")
        if kind == "too_few":
            raise RankLostError(f"too few ranks: {why}")
        logger.info(f"this rank no longer takes part ({why}); it ends, to join anew")
        raise SystemExit(_RESTART_CODE)

    def leave(self, why: str, finished: bool = False) -> None:
        """Tell the others that this rank ends of its own accord."""
        self._closed = True
        self._send({"leave": why, "finished": finished})

    def _connect(self) -> None:
        host, _, port = self.address.rpartition(":")
        connection = _Connection(host, int(port))
        try:
            challenge, mine = str(_answered(connection).get("challenge")), secrets.token_hex(16)
            connection.send(
                self._hello
                | {"proof": self._proof("rank", challenge), "challenge": mine, "facts": self._facts}
                | {"round": self._round, "rank": self._rank, "world_size": self._world_size}
            )
            answer = _answered(connection)
            if not hmac.compare_digest(str(answer.get("proof")), self._proof("coordinator", mine)):
                raise InputError(
                    f"the coordinator at {self.address} has another secret; start all ranks of a run with the same "
                    "BITSCALE_SECRET, or by one launchers/torchrun.sh"
                )
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        if self._pending is not None:
            self._send({"ask": self._pending})

    def _proof(self, who: str, challenge: str) -> str:
        return hmac.new(self._secret, f"{who} {challenge}".encode(), hashlib.sha256).hexdigest()

    def _send(self, message: Message) -> None:
        """Send it if there is a connection; what is asked for is sent again with the next one."""
        connection = self._connection
        with suppress(OSError):
            if connection is not None:
                connection.send(message)

    def _keep(self) -> None:
        while not self._closed and self._ending is None:
            if self._connection is None:
                time.sleep(_RETRY_S)
                if self._closed:
                    break
                with suppress(OSError, ValueError, InputError):
                    self._connect()
                continue
            with suppress(OSError, ValueError):
                self._listen(self._connection)
            self._connection.close()
            self._away_since = time.monotonic()  # first: without a connection others look at it
            self._connection = None

    def _listen(self, connection: "_Connection") -> None:
        beaten = time.monotonic()
        while not self._closed and self._ending is None:
            message = connection.receive(_BEAT_S)
            if message is not None:
                self._take(message)
            if time.monotonic() - beaten > _BEAT_S:
                connection.send({})
                beaten = time.monotonic()

    def _take(self, message: Message) -> None:
        with self._changed:
            if "round" in message:
                self._answer, self._pending = message, None
                self._round, self._rank, self._world_size = (message[name] for name in ("round", "rank", "world_size"))
                self.joiners_wait, self.lost = False, None
            self._is_running = message.get("running", self._is_running)
            self.joiners_wait = self.joiners_wait or "joiners" in message
            self.lost = message.get("lost", self.lost)
            if "round" not in message:
                self._ending = next(((kind, str(message[kind])) for kind in _ENDINGS if kind in message), self._ending)
            self._changed.notify_all()
        if "lost" in message:
            self._on_loss(message["lost"])


def _answered(connection: "_Connection") -> Message:
    """The next message of a greeting. Raises OSError where none comes: one that is suspended may answer later."""
    if (message := connection.receive(CONNECT_S)) is None:
        raise TimeoutError(f"it does not answer for {CONNECT_S:.0f} s")
    return message


class _Connection:
    """Messages over a socket, each a line of JSON. Every method raises OSError when it is broken."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), CONNECT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Behind a cut cable what is sent would otherwise wait for many minutes before the connection counts as broken.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_UNANSWERED_S * 1e3))
        self._socket.settimeout(CONNECT_S)
        self._poll, self._buffer, self._sending = select.poll(), b"", threading.Lock()
        self._poll.register(self._socket, select.POLLIN)

    def send(self, message: Message) -> None:
        with self._sending:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout_s: float) -> Message | None:
        """The next message, None if there is none in this time. Raises ValueError for what is none."""
        while b"\n" not in self._buffer:
            if not self._poll.poll(timeout_s * 1e3):
                return None
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError("the coordinator has closed the connection")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: Message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("a message is a JSON object")
        return message

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # for a thread that waits for a message
        self._socket.close()
