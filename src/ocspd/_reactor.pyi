"""Descriptors of a worker and who is ready: the part of `_fastpath.Connections` that knows no HTTP."""

from typing_extensions import disjoint_base

@disjoint_base
class Reactor:
    """An epoll set of listening sockets and client connections, served in turns by an event loop."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is work (for `loop.add_reader`)."""
    def turn(self) -> None:
        """Do the work that is there, a bounded amount of it. Never waits."""
    def listen(self, descriptor: int) -> None:
        """Accept on this listening socket (TCP of either family, or Unix), which stays the caller's.

        Whether the kernel holds back connections that have not spoken is for their owner to set
        (`ocspd.ops.listeners`). OSError when the descriptor cannot be watched.
        """
    def unlisten(self, descriptor: int) -> None:
        """Accept no more on this socket. Call it before closing the descriptor."""
    def adopt(self, descriptor: int) -> None:
        """Serve a connected stream socket; the descriptor belongs to the reactor from now on."""
    @property
    def current(self) -> int:
        """Open connections."""
    @property
    def starved_by(self) -> int:
        """The error number for which clients are refused (EMFILE, ENFILE, …); 0 when none are."""
