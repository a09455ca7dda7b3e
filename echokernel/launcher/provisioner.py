"""The launcher: a jupyter_client kernel provisioner that starts kernels without a port race.

Named in a kernelspec (``metadata.kernel_provisioner.provisioner_name: handshake-provisioner``) or
as the default provisioner (``JUPYTER_DEFAULT_PROVISIONER_NAME=handshake-provisioner``), it serves
every stock client with no change of theirs: it chooses a way (``negotiation``), makes an attempt
(``attempts``), waits for ports, exit or deadline, and hands the real ports to the kernel manager.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Mapping
from typing import Any

import zmq
from jupyter_client.connect import KernelConnectionInfo, port_names
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import CaselessStrEnum, Float, List, Unicode

from ..protocol.errors import KernelDied, LaunchError
from ..protocol.startup import Ports
from . import selection, settings, strategies
from .cleanup import Unfinished, kill_process_group
from .jupyter_client_compat import has_restarter, publish_ports, reserve_ports
from .launch import Launch, ending
from .selection import Way
from .settings import Settings
from .stderr_tail import StderrTail
from .strategies import Attempt

LAUNCH_TIMEOUT = 60.0
"""Seconds until a kernel must be up (L4)."""

GUESS_TIMEOUT = 10.0
"""Seconds that a way of which nothing is known may take before another is tried (L7)."""

STOP_TIME = 5.0
"""Seconds that a killed process may take to be gone."""


class HandshakeProvisioner(LocalProvisioner):
    """Starts a local kernel by a handshake; without one, does what LocalProvisioner does.

    Configured in the kernelspec (``metadata.kernel_provisioner.config``), or for every kernel of
    an application (``c.HandshakeProvisioner.launch_timeout = 120``).
    """

    handshake = CaselessStrEnum(
        [way.value for way in Way],
        default_value=None,
        allow_none=True,
        help="How the kernel tells its ports; by default that is found out.",
    ).tag(config=True)

    launch_timeout = Float(
        LAUNCH_TIMEOUT, help="Seconds until the kernel must have told its ports."
    ).tag(config=True)

    guess_timeout = Float(
        GUESS_TIMEOUT,
        help="Seconds until another way is tried, where `handshake` does not say which.",
    ).tag(config=True)

    rewriters = List(
        Unicode(),
        default_value=list(selection.KNOWN_REWRITERS),
        help="Modules (`python -m MODULE`) whose kernels write their ports into their connection"
        " file, as ipykernel's app does; started so where `handshake` does not say otherwise.",
    ).tag(config=True)

    bind_ip = Unicode(
        help="Address that the kernel binds, such as 0.0.0.0; by default the kernel manager's `ip`,"
        " which is where clients look for the kernel."
    ).tag(config=True)

    registration_ip = Unicode(
        help="Address at which the kernel registers; by default the one that it binds, or loopback."
    ).tag(config=True)

    port_range = Unicode(
        help="Ports that the kernel may take, such as 50000-50100; by default the system's choice."
    ).tag(config=True)

    _attempt: Attempt | None = None
    _launch: Launch
    _tail: StderrTail | None = None
    _launching = False
    _found_dead: subprocess.Popen[bytes] | None = None

    @property
    def _manager(self) -> Any:
        """The kernel manager: jupyter_client has no provisioner without one."""
        return self.parent

    # --- what jupyter_client calls -------------------------------------------------------

    @property
    def has_process(self) -> bool:
        """Whether there is a kernel to talk to: not while it starts.

        A websocket that is opened during a restart waits for this, and then connects to where the
        kernel is; it would stay with the old ports for the kernel's life. An interrupt waits, too:
        what has not started yet, it would kill.
        """
        return self.process is not None and not self._launching

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Choose a way, write the startup file and return the launch's arguments.

        Raises:
            LaunchError: the kernel manager's settings cannot be met.
        """
        self._conclude()  # a launch that was announced and never made
        self._arguments = kwargs
        choice = selection.choose(self.kernel_spec, self.handshake, self.rewriters)
        name = self._manager.kernel_name
        self._launch = Launch(name, choice, self.launch_timeout, self.guess_timeout)
        return await self._prepare()

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the process, wait for its ports and return where it listens.

        Raises:
            KernelDied: the process ended before it told its ports (L4).
            LaunchTimeout: it did not tell them in time; it has been stopped (L4).
        """
        launch = self._launch
        if self._attempt is None and launch.choice.way is Way.CLASSIC:
            return await super().launch_kernel(cmd, **kwargs)
        environment = kwargs.get("env", {})
        ready = self._manager.ready
        self._launching = True
        try:
            launch.start_clock(environment)
            while (info := await self._try(cmd, kwargs)) is None:
                kwargs = await self._prepare()
                cmd = kwargs.pop("cmd")
            return info
        except asyncio.CancelledError:
            self._fail(ready, launch.error(LaunchError, "the start was cancelled"))
            raise
        except Exception as error:
            if self._is_autorestart():
                return self._stay_dead(error, environment)
            if ready is not self._manager.ready:  # a shutdown has put its own there
                self._fail(ready, error)
            raise
        finally:
            self._conclude()
            self._launching = False
            self._found_dead = None

    async def exit_error(self) -> KernelDied | None:
        """Return why the kernel is not there any more; None while it lives, or if none was started.

        For who waits for a kernel that told its ports and ended before it was of use.
        """
        status = None if self.process is None else await self.poll()
        if status is None:
            return None
        last_lines = await self._tail.read_to_end() if self._tail else ""
        problem = f"the kernel {ending(status)} before it was ready"
        return self._launch.error(KernelDied, problem, status, last_lines)

    async def kill(self, restart: bool = False) -> None:
        """Kill the process; note whether it was dead, as it is at an autorestart."""
        dead = self.process is not None and self.process.poll() is not None
        self._found_dead = self.process if dead else None
        await super().kill(restart=restart)

    async def cleanup(self, restart: bool = False) -> None:
        """Forget a launch that is under way; may come early, late or twice (L8)."""
        if self._launching:
            self._launch.given_up = True
        self._conclude()
        if not restart:
            self._found_dead = None
        await super().cleanup(restart=restart)

    # --- one attempt, in order -------------------------------------------------------------

    async def _prepare(self) -> dict[str, Any]:
        """Return the arguments of the next attempt; its startup file is written."""
        launch = self._launch
        launch.begin_attempt()
        try:
            if launch.choice.way is Way.CLASSIC:
                return await self._prepare_classic()
            return await self._prepare_attempt(launch.choice.way)
        except ValueError as error:
            raise launch.error(LaunchError, str(error)) from None
        except (OSError, zmq.ZMQError) as error:
            problem = f"the start cannot be prepared: {error.strerror or error}"
            raise launch.error(LaunchError, problem) from None

    async def _prepare_classic(self) -> dict[str, Any]:
        self._settings().refuse(Way.CLASSIC, "bind_ip", "port_range")
        arguments = dict(await super().pre_launch(**self._arguments))
        if not self._launch.is_first:  # after another way failed, look whether this one does not
            plan = settings.plan(self._manager, Way.CLASSIC, self._settings())
            self._attempt = strategies.make(Way.CLASSIC, plan)
        return arguments

    async def _prepare_attempt(self, way: Way) -> dict[str, Any]:
        manager = self._manager
        if not manager.connection_file:
            # Chosen here: with none, jupyter_client would name the current directory to the
            # kernel. And first: the default address of ipc is made from it.
            manager.connection_file = settings.connection_file_name(self.kernel_id)
        plan = settings.plan(manager, way, self._settings(), keep_ports=self._launch.keep_ports)
        self._attempt = strategies.make(way, plan)
        arguments = dict(self._arguments)
        arguments.pop("transport_encryption", None)  # the manager has taken note of it
        extra_arguments = arguments.pop("extra_arguments", [])
        try:
            # The command names the startup file where it asks for {connection_file}.
            named, manager.connection_file = manager.connection_file, self._attempt.startup_file
            try:
                command = manager.format_kernel_cmd(extra_arguments=extra_arguments)
            finally:
                manager.connection_file = named
            return dict(await KernelProvisionerBase.pre_launch(self, cmd=command, **arguments))
        except BaseException:
            self._conclude()
            raise

    def _settings(self) -> Settings:
        return Settings(
            bind_ip=self.bind_ip, registration_ip=self.registration_ip, port_range=self.port_range
        )

    async def _try(self, cmd: list[str], kwargs: dict[str, Any]) -> KernelConnectionInfo | None:
        """Make the attempt; None if another is to follow."""
        attempt, launch = self._attempt, self._launch
        if attempt is None:
            raise launch.error(LaunchError, "the launch was given up before it began")
        tail = self._tail = StderrTail(kwargs.get("stderr"))
        unfinished = Unfinished(attempt.files)
        try:
            with tail.capture() as stderr, unfinished.spawning():
                await super().launch_kernel(cmd, **{**kwargs, "stderr": stderr})
                unfinished.process = self.process
            ports = await launch.await_ports(attempt, self.poll, tail)
            return self._hand_over(attempt, ports, kwargs.get("env", {}))
        except GeneratorExit:  # the event loop is gone: nothing can be awaited any more
            unfinished.end()
            raise
        except BaseException as error:
            # Also when the start is cancelled: a process that nobody waits for is an orphan.
            await self._stop()
            if not launch.try_another(attempt, error):
                raise
            return None
        finally:
            self._conclude()
            unfinished.finish()

    def _hand_over(
        self, attempt: Attempt, ports: Ports, environment: Mapping[str, str]
    ) -> KernelConnectionInfo:
        """The kernel is up: let the manager know, and remember how it was started."""
        manager = self._manager
        try:
            attempt.check(ports)
            info = publish_ports(manager, ports, environment.get("JPY_SESSION_NAME"))
        except ValueError as error:
            raise self._launch.error(LaunchError, str(error)) from None
        except OSError as error:
            problem = f"cannot write {manager.connection_file}: {error.strerror or error}"
            raise self._launch.error(LaunchError, problem) from None
        attempt.hand_over()
        if manager.transport == "tcp":
            reserve_ports(ports)
            self.ports_cached = True  # LocalProvisioner gives them back when it cleans up
        self.connection_info = info
        if self._launch.has_taught and self.handshake is None:
            selection.remember(self.kernel_spec, attempt.way)
            self.log.info("%s", self._launch.lesson())
        return info

    # --- what follows a failure ------------------------------------------------------------

    def _is_autorestart(self) -> bool:
        """Whether a restarter watches this kernel, and found it dead."""
        return has_restarter(self._manager) and self._found_dead is not None

    def _stay_dead(self, error: Exception, environment: Mapping[str, str]) -> KernelConnectionInfo:
        """Let a failed autorestart look like a kernel that died again, at its old ports.

        An exception would end jupyter_client's supervision without a word: nobody would try again,
        and clients would never hear `dead`.
        """
        manager = self._manager
        self.log.error("%s could not be restarted: %s", manager.kernel_name, error)
        self.process = self._found_dead
        ports = Ports.from_keys({name: getattr(manager, name) for name in port_names})
        self.connection_info = publish_ports(manager, ports, environment.get("JPY_SESSION_NAME"))
        return self.connection_info

    def _conclude(self) -> None:
        """End the attempt on our side: no more waiting, no file of its own."""
        if self._attempt is not None:
            self._attempt.conclude()
        self._attempt = None

    async def _stop(self) -> None:
        """Kill what was started, and wait until it is gone."""
        if self.process is not None:
            kill_process_group(self.process)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.wait(), STOP_TIME)
        self.process = None

    @staticmethod
    def _fail(ready: Any, error: Exception) -> None:
        """End a manager's ``ready`` that jupyter_client would leave pending, for ever."""
        if not ready.done():
            ready.set_exception(error)
            ready.exception()  # somebody may never ask; that is no news for the log
