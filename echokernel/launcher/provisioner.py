"""The launcher: a jupyter_client kernel provisioner that starts kernels without a port race.

It is named in a kernelspec (``metadata.kernel_provisioner.provisioner_name``) or as the default
provisioner (``JUPYTER_DEFAULT_PROVISIONER_NAME=handshake-provisioner``), and it serves every stock
client without a change. Here are the processes and the calls of jupyter_client. The start mode is
chosen in `selection`, carried out in `strategies`, and timed in `launch`.
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
from .cleanup import PendingLaunch, kill_process_group
from .jupyter_client_compat import has_restarter, publish_ports, reserve_ports
from .launch import Launch, describe_exit
from .selection import StartMode
from .settings import Settings
from .stderr_tail import StderrTail
from .strategies import StartStrategy

LAUNCH_TIMEOUT = 60.0
"""Seconds until a kernel must be up (L4)."""

GUESS_TIMEOUT = 10.0
"""Seconds for an attempt whose start mode is a guess (L7)."""

KILL_TIMEOUT = 5.0
"""Seconds to wait for the end of a killed process."""


class HandshakeProvisioner(LocalProvisioner):
    """Starts a local kernel by a handshake; in the classic start mode it is a LocalProvisioner.

    Configured in the kernelspec (``metadata.kernel_provisioner.config``), or for all kernels of an
    application (``c.HandshakeProvisioner.launch_timeout = 120``).
    """

    handshake = CaselessStrEnum(
        [mode.value for mode in StartMode],
        default_value=None,
        allow_none=True,
        help="The start mode of the kernel; by default it is chosen by the kernelspec and by what"
        " has worked before.",
    ).tag(config=True)

    launch_timeout = Float(
        LAUNCH_TIMEOUT, help="Seconds until the launcher must know the kernel's ports."
    ).tag(config=True)

    guess_timeout = Float(
        GUESS_TIMEOUT,
        help="Seconds until another start mode is tried, if `handshake` is not set.",
    ).tag(config=True)

    rewriters = List(
        Unicode(),
        default_value=list(selection.KNOWN_REWRITERS),
        help="Modules (`python -m MODULE`) whose kernels write their ports into their connection"
        " file, as ipykernel does. They use the start mode `rewrite` if `handshake` is not set.",
    ).tag(config=True)

    bind_ip = Unicode(
        help="Address that the kernel binds, such as 0.0.0.0; by default the kernel manager's `ip`."
        " Clients connect to the manager's `ip` in any case."
    ).tag(config=True)

    registration_ip = Unicode(
        help="Address of the launcher's registration socket; by default the address that the kernel"
        " binds, or loopback if that is 0.0.0.0."
    ).tag(config=True)

    port_range = Unicode(
        help="Ports that the kernel may use, such as 50000-50100; by default the operating system"
        " chooses free ports."
    ).tag(config=True)

    _launch: Launch
    _launching = False
    _strategy: StartStrategy | None = None
    _tail: StderrTail | None = None
    _dead_process: subprocess.Popen[bytes] | None = None

    @property
    def _manager(self) -> Any:
        """The kernel manager. jupyter_client creates no provisioner without one."""
        return self.parent

    # --- called by jupyter_client --------------------------------------------------------

    @property
    def has_process(self) -> bool:
        """True if the kernel is running; False while it starts.

        jupyter_server's websocket waits for this. Opened during a restart, it would otherwise
        connect to the old ports and stay there. An interrupt waits, too: it would kill a process
        that is still starting.
        """
        return self.process is not None and not self._launching

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Choose the start mode, write the startup file and return the arguments of the launch.

        Raises:
            LaunchError: the settings contradict each other, or a file or socket cannot be created.
        """
        self._close_strategy()  # A launch may have been prepared and not carried out.
        self._arguments = kwargs
        mode, is_guess = selection.choose(self.kernel_spec, self.handshake, self.rewriters)
        self._launch = Launch(
            self._manager.kernel_name,
            mode,
            is_guess=is_guess,
            timeout=self.launch_timeout,
            guess_timeout=self.guess_timeout,
        )
        return await self._prepare()

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the process, wait for the kernel's ports and return the connection information.

        Args:
            cmd: the command of the kernel's process.
            kwargs: arguments of ``subprocess.Popen``.

        Raises:
            KernelDied: the process ended before the ports were known (L4).
            LaunchTimeout: the ports were not known in time; the process was killed (L4).
            LaunchError: the launch failed for another reason.
        """
        launch = self._launch
        if self._strategy is None and launch.mode is StartMode.CLASSIC:
            return await super().launch_kernel(cmd, **kwargs)
        environment = kwargs.get("env", {})
        ready = self._manager.ready
        self._launching = True
        try:
            launch.start_clock(environment)
            while (info := await self._attempt(cmd, kwargs)) is None:
                kwargs = await self._prepare()
                cmd = kwargs.pop("cmd")
            return info
        except asyncio.CancelledError:
            self._fail_ready(ready, launch.error(LaunchError, "the launch was cancelled"))
            raise
        except Exception as error:
            if self._is_autorestart():
                return self._keep_dead(error, environment)
            if ready is not self._manager.ready:  # A shutdown has replaced the manager's future.
                self._fail_ready(ready, error)
            raise
        finally:
            self._close_strategy()
            self._launching = False
            self._dead_process = None

    async def exit_error(self) -> KernelDied | None:
        """Return why the kernel's process has ended; None if it lives or was not started.

        This is for a client that waits for a kernel which has registered and died before it was
        ready.
        """
        status = None if self.process is None else await self.poll()
        if status is None:
            return None
        last_lines = await self._tail.read_to_end() if self._tail else ""
        problem = f"the kernel {describe_exit(status)} before it was ready"
        return self._launch.error(KernelDied, problem, status, last_lines)

    async def kill(self, restart: bool = False) -> None:
        """Kill the process; remember it if it was dead already, as it is at an autorestart."""
        dead = self.process is not None and self.process.poll() is not None
        self._dead_process = self.process if dead else None
        await super().kill(restart=restart)

    async def cleanup(self, restart: bool = False) -> None:
        """Abort a launch that is in progress, and release the ports unless this is a restart.

        jupyter_client can call this early, late or twice (L8).
        """
        if self._launching:
            self._launch.aborted = True
        self._close_strategy()
        if not restart:
            self._dead_process = None
        await super().cleanup(restart=restart)

    # --- one attempt, in order -------------------------------------------------------------

    async def _prepare(self) -> dict[str, Any]:
        """Write the startup file of the next attempt and return the arguments of its launch."""
        launch = self._launch
        launch.begin_attempt()
        try:
            if launch.mode is StartMode.CLASSIC:
                return await self._prepare_classic()
            return await self._prepare_strategy(launch.mode)
        except ValueError as error:
            raise launch.error(LaunchError, str(error)) from None
        except (OSError, zmq.ZMQError) as error:
            problem = f"cannot prepare the launch: {error.strerror or error}"
            raise launch.error(LaunchError, problem) from None

    async def _prepare_classic(self) -> dict[str, Any]:
        self._settings().refuse(StartMode.CLASSIC, "bind_ip", "port_range")
        arguments = dict(await super().pre_launch(**self._arguments))
        if not self._launch.is_first_attempt:  # Watch the kernel: another mode has failed.
            spec = settings.launch_spec(self._manager, StartMode.CLASSIC, self._settings())
            self._strategy = strategies.create(StartMode.CLASSIC, spec)
        return arguments

    async def _prepare_strategy(self, mode: StartMode) -> dict[str, Any]:
        manager = self._manager
        if not manager.connection_file:
            # Without a name, jupyter_client would use the current directory. The name comes first,
            # because the default ipc address is derived from it.
            manager.connection_file = settings.connection_file_name(self.kernel_id)
        keep_ports = self._launch.keep_ports
        spec = settings.launch_spec(manager, mode, self._settings(), keep_ports=keep_ports)
        self._strategy = strategies.create(mode, spec)
        arguments = dict(self._arguments)
        arguments.pop("transport_encryption", None)  # The manager has stored it.
        extra_arguments = arguments.pop("extra_arguments", [])
        try:
            # The command must name the startup file in the place of {connection_file}.
            path, manager.connection_file = manager.connection_file, self._strategy.startup_file
            try:
                command = manager.format_kernel_cmd(extra_arguments=extra_arguments)
            finally:
                manager.connection_file = path
            # Not LocalProvisioner.pre_launch, which would choose ports.
            return dict(await KernelProvisionerBase.pre_launch(self, cmd=command, **arguments))
        except BaseException:
            self._close_strategy()
            raise

    def _settings(self) -> Settings:
        return Settings(
            bind_ip=self.bind_ip, registration_ip=self.registration_ip, port_range=self.port_range
        )

    async def _attempt(self, cmd: list[str], kwargs: dict[str, Any]) -> KernelConnectionInfo | None:
        """Carry out the prepared attempt; return None if another attempt must follow."""
        strategy, launch = self._strategy, self._launch
        if strategy is None:
            raise launch.error(LaunchError, "the launch was aborted before the process started")
        tail = self._tail = StderrTail(kwargs.get("stderr"))
        pending = PendingLaunch(strategy.files)
        try:
            with tail.capture() as stderr, pending.spawning():
                await super().launch_kernel(cmd, **{**kwargs, "stderr": stderr})
                pending.process = self.process
            ports = await launch.await_ports(strategy, self.poll, tail)
            return self._publish(strategy, ports, kwargs.get("env", {}))
        except GeneratorExit:  # The event loop is closed: nothing can be awaited any more.
            pending.abort()
            raise
        except BaseException as error:
            # Also after a cancellation: otherwise the process would be orphaned.
            await self._kill_process()
            if not launch.plan_retry(strategy, error):
                raise
            return None
        finally:
            self._close_strategy()
            pending.complete()

    def _publish(
        self, strategy: StartStrategy, ports: Ports, environment: Mapping[str, str]
    ) -> KernelConnectionInfo:
        """Pass the ports of a running kernel to its manager, and remember the start mode."""
        manager = self._manager
        try:
            strategy.check_ports(ports)
            info = publish_ports(manager, ports, environment.get("JPY_SESSION_NAME"))
        except ValueError as error:
            raise self._launch.error(LaunchError, str(error)) from None
        except OSError as error:
            problem = f"cannot write {manager.connection_file}: {error.strerror or error}"
            raise self._launch.error(LaunchError, problem) from None
        strategy.release_connection_file()
        if manager.transport == "tcp":
            reserve_ports(ports)
            self.ports_cached = True  # LocalProvisioner.cleanup then returns the ports.
        self.connection_info = info
        if self._launch.learned and self.handshake is None:
            selection.remember(self.kernel_spec, strategy.mode)
            self.log.info("%s", self._launch.summary())
        return info

    # --- after a failure -------------------------------------------------------------------

    def _is_autorestart(self) -> bool:
        """Return True if jupyter_client's restarter is replacing a dead process."""
        return has_restarter(self._manager) and self._dead_process is not None

    def _keep_dead(self, error: Exception, environment: Mapping[str, str]) -> KernelConnectionInfo:
        """Make a failed autorestart look like a kernel that died again at its old ports.

        An exception would silently end jupyter_client's supervision: no further restart, and no
        ``dead`` status for clients.
        """
        manager = self._manager
        self.log.error("%s could not be restarted: %s", manager.kernel_name, error)
        self.process = self._dead_process
        ports = Ports.from_keys({name: getattr(manager, name) for name in port_names})
        self.connection_info = publish_ports(manager, ports, environment.get("JPY_SESSION_NAME"))
        return self.connection_info

    def _close_strategy(self) -> None:
        if self._strategy is not None:
            self._strategy.close()
        self._strategy = None

    async def _kill_process(self) -> None:
        """Kill the process, if there is one, and wait for its end."""
        if self.process is not None:
            kill_process_group(self.process)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.wait(), KILL_TIMEOUT)
        self.process = None

    @staticmethod
    def _fail_ready(ready: Any, error: Exception) -> None:
        """Set the error on a manager's ``ready`` future, which would otherwise stay pending."""
        if not ready.done():
            ready.set_exception(error)
            ready.exception()  # Retrieved, so that asyncio does not log it as unhandled.
