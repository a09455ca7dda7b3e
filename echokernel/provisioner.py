"""The launcher: a jupyter_client kernel provisioner that starts kernels by a handshake (JEP 66).

Named in a kernelspec (``metadata.kernel_provisioner.provisioner_name: handshake-provisioner``),
it serves every stock client with no change of theirs: it writes the registration file, starts
the process, waits for ports, exit or deadline, and hands the real ports to the kernel manager.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.connect import KernelConnectionInfo, port_names
from jupyter_client.localinterfaces import is_local_ip
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import CaselessStrEnum, Float

from . import files
from .channels import IPV4_ANY
from .protocol.errors import KernelDied, LaunchError, LaunchTimeout
from .protocol.startup import LOOPBACK, CurveKeys, Form, Ports, RegistrationFile
from .registration import Expectation, RegistrationSocket
from .stderr_tail import StderrTail

LAUNCH_TIMEOUT = 60.0
"""Seconds until a kernel must have registered (L4)."""

EXIT_POLL = 0.02
"""Seconds between looks whether the process has ended."""

STOP_TIME = 5.0
"""Seconds that a killed process may take to be gone."""

CLASSIC = "none"

_launches = itertools.count(1)


class HandshakeProvisioner(LocalProvisioner):
    """Starts a local kernel by a handshake; without one, does what LocalProvisioner does.

    Configured in the kernelspec (``metadata.kernel_provisioner.config``).
    """

    handshake = CaselessStrEnum(
        [form.value for form in Form] + [CLASSIC],
        default_value=None,
        allow_none=True,
        help="Which handshake the kernel speaks; by default its kernel_protocol_version decides.",
    ).tag(config=True)

    launch_timeout = Float(
        LAUNCH_TIMEOUT, help="Seconds until the kernel must have registered."
    ).tag(config=True)

    _file: RegistrationFile | None = None
    _expectation: Expectation | None = None
    _registration: RegistrationSocket | None = None
    _owns_registration = False
    _started = 0.0

    def form(self) -> Form | None:
        """Return which handshake to use; None for the classic way (L7)."""
        if self.handshake is not None:
            return None if self.handshake == CLASSIC else Form(self.handshake)
        # Never a version below 5.6: ipykernel 7.4 advertises 5.5 and has no handshake.
        return Form.SIGNED_FRAME if _version(self.kernel_spec) >= (5, 6) else None

    @property
    def _manager(self) -> Any:
        """The kernel manager: jupyter_client has no provisioner without one."""
        return self.parent

    # --- what jupyter_client calls -------------------------------------------------------

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Write the registration file and return the launch's arguments.

        Raises:
            LaunchError: the kernel manager's settings cannot be met.
        """
        form = self.form()
        if form is None:
            return dict(await super().pre_launch(**kwargs))
        manager = self._manager
        self._conclude()  # a launch that was announced and never made
        self._started = time.monotonic()
        if not manager.connection_file:
            # Chosen here: with none, jupyter_client would name the current directory to the
            # kernel. And first: the default address of ipc is made from it.
            manager.connection_file = str(files.runtime_dir() / _free_name(self.kernel_id))
        if manager.transport == "tcp" and not is_local_ip(manager.ip):
            raise self._error(LaunchError, f"{manager.ip} is not an address of this host")
        kwargs.pop("transport_encryption", None)  # the manager has taken note of it
        extra_arguments = kwargs.pop("extra_arguments", [])
        try:
            file = self._announce(form)
            # The command names the registration file where it asks for {connection_file}.
            named, manager.connection_file = manager.connection_file, file.path
            try:
                command = manager.format_kernel_cmd(extra_arguments=extra_arguments)
            finally:
                manager.connection_file = named
            return dict(await KernelProvisionerBase.pre_launch(self, cmd=command, **kwargs))
        except BaseException:
            self._conclude()
            raise

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the process, wait for its ports and return where it listens.

        Raises:
            KernelDied: the process ended before it registered (L4).
            LaunchTimeout: it did not register in time; it has been stopped (L4).
        """
        if self._expectation is None:
            return await super().launch_kernel(cmd, **kwargs)
        environment = kwargs.get("env", {})
        self._started = time.monotonic()
        tail = StderrTail(kwargs.get("stderr"))
        try:
            with tail.capture() as stderr:
                await super().launch_kernel(cmd, **{**kwargs, "stderr": stderr})
            ports = await self._await_ports(self._expectation, self._timeout(environment), tail)
            return self._hand_over(ports, environment.get("JPY_SESSION_NAME"))
        except BaseException as error:
            # Also when the start is cancelled: a process that nobody waits for is an orphan.
            await self._stop()
            if isinstance(error, asyncio.CancelledError):
                self._fail_ready()
            raise
        finally:
            self._conclude()

    async def cleanup(self, restart: bool = False) -> None:
        """Forget a launch that is under way; may come early, late or twice (L8)."""
        self._conclude()
        await super().cleanup(restart=restart)

    # --- one launch, in order --------------------------------------------------------------

    def _announce(self, form: Form) -> RegistrationFile:
        """Open the launch: expect its registration, write its registration file (L5)."""
        manager = self._manager
        # An id of its own for each launch: a restart reuses the key, and a late registration
        # of the old process must not be taken for the new one.
        launch_id = f"{self.kernel_id or uuid.uuid4()}.{next(_launches)}"
        curve = self._curve_keys()
        try:
            files.runtime_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
            self._registration = self._registration_socket(curve)
        except (OSError, zmq.ZMQError) as error:
            problem = f"no registration socket: {error.strerror or error}"
            raise self._error(LaunchError, problem) from None
        self._expectation = self._registration.expect(
            launch_id, manager.session.key, manager.session.signature_scheme
        )
        # Not `kernel-*.json`: nobody is to take it for a connection file.
        path = files.runtime_dir() / f"registration-{launch_id}.json"
        self._file = RegistrationFile(
            form=form,
            key=manager.session.key,
            transport=manager.transport,
            signature_scheme=manager.session.signature_scheme,
            curve=curve,
            ip=manager.ip,
            registration_ip=self._registration.ip,
            registration_port=self._registration.port,
            kernel_id=launch_id if form is Form.SIGNED_FRAME else None,
            # Ours, and unknown to other kernels: one connection file, the manager's.
            connection_file=os.path.abspath(manager.connection_file),
            kernel_name=manager.kernel_name,
            # L6 (ours): after a restart, clients that are connected find the kernel again.
            preferred_ports=Ports.from_keys({name: getattr(manager, name) for name in port_names}),
            path=str(path),
        )
        try:
            files.write_private(path, self._file.to_json())
        except OSError as error:
            problem = f"the registration file {path} cannot be written: {error.strerror}"
            raise self._error(LaunchError, problem) from None
        return self._file

    def _registration_socket(self, curve: CurveKeys | None) -> RegistrationSocket:
        """Return the process's shared socket; ipc and CURVE need one of their own."""
        manager = self._manager
        ip = LOOPBACK if manager.ip == IPV4_ANY else manager.ip
        if manager.transport == "ipc" or curve is not None:
            self._owns_registration = True
            return RegistrationSocket(ip, transport=manager.transport, curve=curve)
        self._owns_registration = False
        return RegistrationSocket.shared(ip)

    def _curve_keys(self) -> CurveKeys | None:
        """Return the key pair for the kernel if its manager encrypts, as LocalProvisioner does."""
        manager = self._manager
        # jupyter_client before 8.9 does not encrypt.
        policy = getattr(manager, "_transport_encryption_policy", lambda: "disabled")()
        if policy == "disabled":
            return None
        if policy == "auto" and not manager._kernel_supports_curve_encryption():
            return None
        if manager.curve_publickey is None:  # else a restart: clients know these keys
            manager.curve_publickey, manager.curve_secretkey = zmq.curve_keypair()
        return CurveKeys(manager.curve_publickey, manager.curve_secretkey)

    def _timeout(self, environment: Mapping[str, str]) -> float:
        """Return the deadline, seconds from the start of the process (L4).

        ``KERNEL_LAUNCH_TIMEOUT`` is what Jupyter's gateways put into a launch's environment.
        """
        given = environment.get("KERNEL_LAUNCH_TIMEOUT", "")
        try:
            return float(given) if given else self.launch_timeout
        except ValueError:
            problem = f"KERNEL_LAUNCH_TIMEOUT={given!r} is not a number of seconds"
            raise self._error(LaunchError, problem) from None

    async def _await_ports(
        self, expectation: Expectation, timeout: float, tail: StderrTail
    ) -> Ports:
        """Wait for the kernel's ports, the end of its process, or the deadline (L4)."""
        registered = asyncio.wrap_future(expectation.registered)
        while True:
            await asyncio.wait([registered], timeout=EXIT_POLL)
            if registered.done():
                if registered.cancelled():
                    # An exception, not a cancellation: that would leave `km.ready` pending.
                    raise self._error(LaunchError, "the launch was given up")
                return registered.result()
            status = await self.poll()
            if status is not None:
                problem = f"the kernel {_ending(status)} before it registered its ports"
                raise self._error(KernelDied, problem, status, await tail.read_to_end())
            if time.monotonic() > self._started + timeout:
                problem = f"the kernel did not register its ports within {timeout:g} s"
                raise self._error(LaunchTimeout, problem, None, tail.text())

    def _hand_over(self, ports: Ports, session_name: str | None) -> KernelConnectionInfo:
        """Give the manager the real ports, and write its connection file (L5)."""
        manager = self._manager
        for name, port in ports.to_keys().items():
            setattr(manager, name, port)
        info: KernelConnectionInfo = manager.get_connection_info()
        extra = {"kernel_name": manager.kernel_name}
        if session_name is not None:
            extra["jupyter_session"] = session_name
        # jupyter_client's own way (remove, then write) shows half a file to whoever reads now,
        # and would count these ports as random: an autorestart would then throw them away.
        connection = {**info, "key": manager.session.key.decode(), **extra}
        try:
            files.write_private(manager.connection_file, connection)
        except OSError as error:
            problem = f"cannot write {manager.connection_file}: {error.strerror or error}"
            raise self._error(LaunchError, problem) from None
        manager._connection_file_written = True
        self.connection_info = info
        return info

    def _conclude(self) -> None:
        """End the launch on our side: no more waiting, no registration file."""
        if self._registration is not None:
            if self._expectation is not None:
                self._registration.forget(self._expectation.launch_id)
            if self._owns_registration:
                self._registration.close()
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._file.path)
        self._registration = self._expectation = self._file = None

    async def _stop(self) -> None:
        """Kill what was started, and wait until it is gone."""
        if self.process is not None:
            await self.kill()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.wait(), STOP_TIME)
        self.process = None

    def _fail_ready(self) -> None:
        """End the manager's ``ready``, which it leaves pending when a start is cancelled."""
        ready = self._manager.ready
        if not ready.done():
            ready.set_exception(self._error(LaunchError, "the start was cancelled"))
            ready.exception()  # somebody may never ask; that is no news for the log

    def _error(
        self,
        kind: type[LaunchError],
        problem: str,
        exit_status: int | None = None,
        stderr_tail: str = "",
    ) -> LaunchError:
        form = self.form()
        way = f"the {form.value} handshake" if form else "the classic way"
        return kind(
            problem,
            tried=f"{self._manager.kernel_name} by {way}",
            elapsed=time.monotonic() - self._started,
            exit_status=exit_status,
            stderr_tail=stderr_tail,
        )


def _version(kernel_spec: Any) -> tuple[int, ...]:
    """Return the kernelspec's ``kernel_protocol_version``; () if it says none."""
    said = getattr(kernel_spec, "kernel_protocol_version", None)
    if said is None:  # older jupyter_clients know no such field, and drop it
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            text = (Path(kernel_spec.resource_dir) / "kernel.json").read_text(encoding="utf-8")
            said = json.loads(text).get("kernel_protocol_version")
    parts = str(said or "").split(".")
    return tuple(int(part) for part in parts) if all(p.isdecimal() for p in parts) else ()


def _ending(status: int) -> str:
    """Say how a process ended: ``exited with status 2``, ``was killed by SIGKILL``."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _free_name(kernel_id: str | None) -> str:
    """Return a connection file's name that no other kernel uses."""
    name = f"kernel-{kernel_id or uuid.uuid4()}.json"
    taken = (files.runtime_dir() / name).exists()
    return f"kernel-{uuid.uuid4()}.json" if taken else name
