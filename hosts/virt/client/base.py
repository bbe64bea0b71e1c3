"""What the parts of the client share: the connection, and how things are looked up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from hosts.virt.connection import CALL_TIMEOUT_S, Connection

T = TypeVar("T")


class Calls:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def ping(self) -> None:
        """A round trip to the daemon. HostUnreachable."""
        self.connection.call(lambda conn: conn.getLibVersion())

    def close(self) -> None:
        self.connection.close()

    def _on_domain(
        self, uuid: UUID, function: Callable[[Any], T], timeout_s: float = CALL_TIMEOUT_S
    ) -> T:
        return self.connection.call(
            lambda conn: function(conn.lookupByUUIDString(str(uuid))), timeout_s
        )
