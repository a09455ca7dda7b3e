"""Every error that this project raises on purpose, in one tree. The party at fault is on the right.

::

    EchoKernelError
    ├── StartupFileError        the startup file is not usable           (its author)
    ├── BindError               a socket cannot be bound                 (this host)
    ├── ConnectionFileError     the connection file cannot be written    (this host)
    ├── WireError               frames from a peer are not usable        (the peer)
    │   ├── MalformedMessage
    │   └── BadSignature
    ├── HandshakeError          the handshake ended without a receipt    (the launcher)
    │   ├── RegistrationRefused     the launcher replied with an error
    │   └── RegistrationTimeout     the launcher sent no valid receipt in time
    ├── CommError               a comm request did not end in a result   (the frontend)
    │   ├── CommDisconnected        no client can respond any more
    │   ├── CommTimeout             no response within the caller's timeout
    │   └── CommRequestError        the response is an error
    ├── LaunchError             the launcher could not start the kernel  (the kernel)
    │   ├── KernelDied              the process ended before it was ready
    │   └── LaunchTimeout           the process did not register in time
    └── NotReady                a client waited in vain for a kernel     (the kernel)

Facts are attributes. ``str()`` is built from them: what failed, where, and what to do. No attribute
and no sentence contains a key.
"""

from __future__ import annotations


class EchoKernelError(Exception):
    """Base class; ``str()`` is one sentence (several lines for `LaunchError`)."""


class StartupFileError(EchoKernelError):
    """A startup file that cannot be used (F3).

    Attributes: ``path`` (str), ``field`` (the JSON key; None: the whole file), ``problem`` (what is
    wrong, and what would be right).
    """

    def __init__(self, path: str, field: str | None, problem: str) -> None:
        self.path = path
        self.field = field
        self.problem = problem
        where = path if field is None else f"{path}: {field}"
        super().__init__(f"{where}: {problem}")


class BindError(EchoKernelError):
    """A channel's socket could not be bound: ``channel``, ``address``, ``problem`` (str)."""

    def __init__(self, channel: str, address: str, problem: str) -> None:
        self.channel = channel
        self.address = address
        self.problem = problem
        super().__init__(f"cannot bind the {channel} socket to {address}: {problem}")


class ConnectionFileError(EchoKernelError):
    """The kernel's connection file cannot be written: ``path``, ``problem`` (str)."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"cannot write the connection file {path}: {problem}")


class WireError(EchoKernelError):
    """Frames from a peer that cannot be used; the receiver drops them and continues."""


class MalformedMessage(WireError):
    """The frames are not a message of the Jupyter protocol."""


class BadSignature(WireError):
    """The frames are a message, but it is not signed with the expected key."""


class HandshakeError(EchoKernelError):
    """The handshake ended without a valid receipt (H4)."""


class RegistrationRefused(HandshakeError):
    """The launcher replied with ``status: error`` (H4): ``address``, ``reason`` (str)."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(f"the launcher at {address} refused the registration: {reason}")


class RegistrationTimeout(HandshakeError):
    """No valid receipt arrived in time (H4).

    Attributes: ``address`` (str), ``waited`` (seconds), ``ignored`` (number of invalid answers).
    """

    def __init__(self, address: str, waited: float, ignored: int) -> None:
        self.address = address
        self.waited = waited
        self.ignored = ignored
        received = f"{ignored} invalid answer(s) were ignored" if ignored else "no answer"
        super().__init__(
            f"no valid receipt from the launcher at {address} within {waited:g} s ({received});"
            " is the launcher that wrote the registration file still running?"
        )


class CommError(EchoKernelError):
    """A comm request that did not end in a result (C6)."""


class CommDisconnected(CommError, ConnectionError):
    """No client can respond any more (C1).

    It is a ``ConnectionError`` too, for code that knows nothing about comms.

    Attributes: ``reason`` (str), ``comm_id`` (str), ``session`` (id of the session that owns the
    comm; None: no session).
    """

    def __init__(self, reason: str, comm_id: str, session: str | None) -> None:
        self.reason = reason
        self.comm_id = comm_id
        self.session = session
        super().__init__(f"the comm {comm_id} is disconnected: {reason}")


class CommTimeout(CommError, TimeoutError):
    """No response in time: ``method`` (str), ``timeout`` (seconds), ``comm_id`` (str)."""

    def __init__(self, method: str, timeout: float, comm_id: str) -> None:
        self.method = method
        self.timeout = timeout
        self.comm_id = comm_id
        super().__init__(f"{method}: no response on the comm {comm_id} within {timeout:g} s")


class CommRequestError(CommError):
    """A JSON-RPC error: ``code`` (int), ``message`` (str), ``data`` (JSON or None).

    A request raises this error if the response is an error. A method that raises this error
    responds with it. https://www.jsonrpc.org/specification#error_object
    """

    def __init__(self, code: int, message: str, data: object = None) -> None:
        self.code = code
        self.message = message
        self.data = data
        super().__init__(f"{message} ({code})")


class LaunchError(EchoKernelError, RuntimeError):
    """The launcher could not start a kernel (L4).

    It is a ``RuntimeError`` too, because jupyter_client and its callers catch that.

    Attributes: ``problem`` (str), ``exit_status`` (int; None: the process has not exited),
    ``elapsed`` (seconds), ``tried`` (what was done, in words), ``stderr_tail`` (the last lines
    that the process wrote to stderr).
    """

    def __init__(
        self,
        problem: str,
        *,
        tried: str,
        elapsed: float,
        exit_status: int | None = None,
        stderr_tail: str = "",
    ) -> None:
        self.problem = problem
        self.tried = tried
        self.elapsed = elapsed
        self.exit_status = exit_status
        self.stderr_tail = stderr_tail
        lines = [f"{problem} (after {elapsed:.1f} s; tried: {tried})"]
        if stderr_tail:
            lines += ["last lines of its stderr:", stderr_tail.rstrip()]
        super().__init__("\n".join(lines))


class KernelDied(LaunchError):
    """The kernel's process ended before it registered, or before it was ready for a client."""


class LaunchTimeout(LaunchError):
    """The kernel's process did not register before the deadline, and was stopped."""


class NotReady(EchoKernelError, RuntimeError):
    """A client waited in vain for a kernel: ``problem`` (str), ``waited`` (seconds).

    It is a ``RuntimeError`` too, because jupyter_client's clients raise that.
    """

    def __init__(self, problem: str, waited: float) -> None:
        self.problem = problem
        self.waited = waited
        super().__init__(f"the kernel is not ready after {waited:.1f} s: {problem}")
