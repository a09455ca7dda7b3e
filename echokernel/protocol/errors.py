"""Every error this project raises on purpose, as one tree.

::

    EchoKernelError
    ├── StartupFileError        the file that -f names is not usable          (ours to tell)
    ├── BindError               a socket cannot be bound                      (this host)
    ├── ConnectionFileError     the kernel's own connection file can't be written (this host)
    ├── WireError               frames that came from a peer are not usable   (the peer)
    │   ├── MalformedMessage
    │   └── BadSignature
    ├── HandshakeError          the handshake ended without a receipt
    │   ├── RegistrationRefused     the launcher said no                      (the launcher)
    │   └── RegistrationTimeout     the launcher said nothing                 (the launcher)
    ├── CommError               a request over a comm did not end in a result
    │   ├── CommDisconnected        nobody is left who could answer           (the frontend)
    │   ├── CommTimeout             no answer within the time that the caller gave
    │   └── CommRequestError        the other end answered with an error
    ├── LaunchError             the launcher could not bring up the kernel
    │   ├── KernelDied              the process ended before it registered, or was ready
    │   └── LaunchTimeout           the process lives but did not register
    └── NotReady                the client waited for a kernel in vain

Facts are attributes; the sentence is made from them and says what to do. No attribute and no
sentence holds a key.
"""

from __future__ import annotations


class EchoKernelError(Exception):
    """Base of everything below; ``str()`` is one sentence (LaunchError: a few lines)."""


class StartupFileError(EchoKernelError):
    """A startup file that cannot be used (F3).

    Attributes: ``path`` (str), ``field`` (the JSON key, or None for the file itself),
    ``problem`` (what is wrong and what would be right).
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
    """Frames from a peer that cannot be used; the reader drops them and goes on."""


class MalformedMessage(WireError):
    """The frames are not a message of this protocol."""


class BadSignature(WireError):
    """The frames are a message, but not one signed with the expected key."""


class HandshakeError(EchoKernelError):
    """The handshake ended without a valid receipt (H4)."""


class RegistrationRefused(HandshakeError):
    """The launcher answered with ``status: error``: ``address``, ``reason`` (str)."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(f"the launcher at {address} refused the registration: {reason}")


class RegistrationTimeout(HandshakeError):
    """No valid receipt came: ``address`` (str), ``waited`` (seconds), ``ignored`` (answers)."""

    def __init__(self, address: str, waited: float, ignored: int) -> None:
        self.address = address
        self.waited = waited
        self.ignored = ignored
        heard = f"{ignored} invalid answer(s) were ignored" if ignored else "nothing answered"
        super().__init__(
            f"no valid receipt from the launcher at {address} within {waited:g} s ({heard});"
            " is the launcher that wrote the registration file still running?"
        )


class CommError(EchoKernelError):
    """A request over a comm that ended in no result (C6)."""


class CommDisconnected(CommError, ConnectionError):
    """Nobody is left who could answer (C1).

    Also a ``ConnectionError``, for code that does not know of comms.

    Attributes: ``reason`` (str), ``comm_id`` (str), ``session`` (id of the session that the comm
    belongs to; None: nobody's).
    """

    def __init__(self, reason: str, comm_id: str, session: str | None) -> None:
        self.reason = reason
        self.comm_id = comm_id
        self.session = session
        super().__init__(f"the comm {comm_id} is disconnected: {reason}")


class CommTimeout(CommError, TimeoutError):
    """No answer in time: ``method`` (str), ``timeout`` (seconds, the caller's), ``comm_id``."""

    def __init__(self, method: str, timeout: float, comm_id: str) -> None:
        self.method = method
        self.timeout = timeout
        self.comm_id = comm_id
        super().__init__(f"{method}: no answer on the comm {comm_id} within {timeout:g} s")


class CommRequestError(CommError):
    """An error as JSON-RPC has it: ``code`` (int), ``message`` (str), ``data`` (JSON or None).

    Raised where a request was answered with one; a method that raises one answers with it.
    """

    def __init__(self, code: int, message: str, data: object = None) -> None:
        self.code = code
        self.message = message
        self.data = data
        super().__init__(f"{message} ({code})")


class LaunchError(EchoKernelError, RuntimeError):
    """A launcher's failure to bring up a kernel.

    Also a ``RuntimeError``, which is what ``jupyter_client`` and its users catch.

    Attributes: ``problem`` (str), ``exit_status`` (int or None while the process lives),
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
    """The kernel's process ended before it registered, or before a client found it ready."""


class LaunchTimeout(LaunchError):
    """The kernel's process did not register before the deadline and was stopped."""


class NotReady(EchoKernelError, RuntimeError):
    """A client waited for a kernel in vain: ``problem`` (str), ``waited`` (seconds).

    Also a ``RuntimeError``, which is what ``jupyter_client``'s own clients raise.
    """

    def __init__(self, problem: str, waited: float) -> None:
        self.problem = problem
        self.waited = waited
        super().__init__(f"the kernel is not ready after {waited:.1f} s: {problem}")
