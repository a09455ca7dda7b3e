"""``echokernel doctor``: explain the kernelspecs of this Jupyter, hidden ones included.

jupyter_client hides a kernelspec whose provisioner is not installed where *Jupyter* runs, and only
logs a warning. This command reads the ``kernel.json`` files of the same folders and prints for each
one the folder, the provisioner, the start mode with its reason, the faults and the remedies. A
diagnosis of the environment (variables, runtime directory) comes first. Jupyter's configuration
files are not read.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Any

from traitlets import TraitError

from .. import connection_files
from ..protocol.wire import JsonObject

DEFAULT_PROVISIONER = "JUPYTER_DEFAULT_PROVISIONER_NAME"
"""Environment variable: the provisioner for kernelspecs that name none.
https://jupyter-client.readthedocs.io/en/stable/provisioning.html"""

LOCAL_PROVISIONER = "local-provisioner"
HANDSHAKE_PROVISIONER = "handshake-provisioner"

CLASSIC = "classic"
"""The start mode in which the launcher chooses the ports; another process can take them before the
kernel binds them."""

FIRST_MAJOR_WITH_PROVISIONERS = 7
"""Major version of jupyter_client."""


@dataclass
class Diagnosis:
    """The diagnosis of one ``kernel.json``, or of the environment.

    Attributes:
        name: the kernelspec's name.
        folder: the folder of its ``kernel.json``.
        provisioner: the provisioner that starts the kernel.
        installed: the provisioner is installed in this environment.
        start_mode: how the kernel would be started.
        reason: why that start mode was chosen.
        problems: faults, each with a remedy.
        notes: facts that are not faults.
    """

    name: str
    folder: str
    provisioner: str | None = None
    installed: bool = False
    start_mode: str | None = None
    reason: str | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def doctor(argv: Sequence[str]) -> int:
    """Run the command with these arguments; return its exit status."""
    options = _parse(argv)
    kernelspecs = list(diagnose_kernelspecs(os.environ))
    if options.names:
        wanted = {name.lower() for name in options.names}
        unknown = sorted(wanted - {diagnosis.name for diagnosis in kernelspecs})
        kernelspecs = [diagnosis for diagnosis in kernelspecs if diagnosis.name in wanted]
        kernelspecs += [_unknown(name) for name in unknown]
    environment = diagnose_environment(os.environ)
    ok = not any(diagnosis.problems for diagnosis in (environment, *kernelspecs))
    if options.json:
        result = {
            "ok": ok,
            "jupyter": asdict(environment),
            "kernelspecs": [asdict(diagnosis) for diagnosis in kernelspecs],
        }
        print(json.dumps(result, indent=1))
    else:
        print("\n\n".join(as_text(diagnosis) for diagnosis in (environment, *kernelspecs)))
    return 0 if ok else 1


def as_text(diagnosis: Diagnosis) -> str:
    """Return the lines that the command prints for ``diagnosis``."""
    lines = [f"{diagnosis.name}  {diagnosis.folder}"]
    if diagnosis.provisioner is not None:
        installed = "installed" if diagnosis.installed else "NOT INSTALLED here"
        lines.append(f"  provisioner  {diagnosis.provisioner} ({installed})")
    if diagnosis.start_mode is not None:
        lines.append(f"  start mode   {diagnosis.start_mode}: {diagnosis.reason}")
    lines += [f"  note         {note}" for note in diagnosis.notes]
    lines += [f"  PROBLEM      {problem}" for problem in diagnosis.problems]
    return "\n".join(lines if len(lines) > 1 else [*lines, "  ok"])


# --- the environment ----------------------------------------------------------------------------


def diagnose_environment(environment: Mapping[str, str]) -> Diagnosis:
    """Return the diagnosis of jupyter_client, the variables and the runtime directory."""
    runtime = connection_files.runtime_dir()
    diagnosis = Diagnosis(f"jupyter_client {version('jupyter_client')}", sys.prefix)
    diagnosis.problems += jupyter_client_problems(version("jupyter_client"))
    default = environment.get(DEFAULT_PROVISIONER)
    if default is not None and default not in _provisioners():
        diagnosis.problems.append(
            f"{DEFAULT_PROVISIONER}={default}, but {default} is not installed here: every"
            " kernelspec that names no provisioner is hidden, including python3. Unset the"
            f" variable, or install the provisioner ({_install_command(default)})"
        )
    elif default is not None:
        diagnosis.notes.append(
            f"{DEFAULT_PROVISIONER}={default} starts the kernels whose kernelspec names no"
            " provisioner"
        )
    diagnosis.problems += runtime_dir_problems(runtime)
    diagnosis.notes.append(f"connection files are in {runtime}")
    return diagnosis


def jupyter_client_problems(installed: str) -> Iterator[str]:
    """Yield the faults of this version of jupyter_client."""
    major = installed.split(".")[0]
    if major.isdecimal() and int(major) < FIRST_MAJOR_WITH_PROVISIONERS:
        yield (
            f"jupyter_client {installed} has no provisioners, which came with 7.0, so that no"
            " kernel is started by a handshake. Run pip install -U jupyter_client"
        )


def runtime_dir_problems(folder: Path) -> Iterator[str]:
    """Yield the reasons why connection files in ``folder`` fail or can be read by other users."""
    probe = folder / f".echokernel-doctor-{os.getpid()}"
    remedy = "set JUPYTER_RUNTIME_DIR to your own folder on a local disk"
    try:
        connection_files.write_private(probe, {})
    except OSError as error:
        yield f"connection files cannot be written to {folder}: {error.strerror}; {remedy}"
        return
    try:
        yield from privacy_problems(probe, remedy)
    finally:
        probe.unlink()


def privacy_problems(file: Path, remedy: str) -> Iterator[str]:
    """Yield a fault if other users can read a file.

    Args:
        file: a file that was created with mode 0600.
        remedy: the end of the sentence.
    """
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077 and os.name == "posix":
        yield (
            f"{file.parent} is on a file system that gave a file of mode 0600 the mode {mode:04o}:"
            f" other users can read the keys of your kernels; {remedy}"
        )


# --- the kernelspecs ----------------------------------------------------------------------------


def diagnose_kernelspecs(environment: Mapping[str, str]) -> Iterator[Diagnosis]:
    """Yield a diagnosis of each ``kernel.json`` on the Jupyter path, hidden ones included."""
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager

    first: dict[str, Path] = {}
    for kernels in KernelSpecManager().kernel_dirs:
        for file in sorted(Path(kernels).glob("*/kernel.json")):
            diagnosis = Diagnosis(file.parent.name.lower(), str(file.parent))
            if first.setdefault(diagnosis.name, file.parent) != file.parent:
                # Not a fault: a user's kernelspec takes precedence over the system's.
                diagnosis.notes.append(f"never used: {first[diagnosis.name]} comes first")
            spec = _read(file, diagnosis)
            if spec is not None:
                _diagnose(spec, environment, diagnosis)
            yield diagnosis
    if NATIVE_KERNEL_NAME not in first:
        # jupyter_client then offers ipykernel's own kernelspec, which has no file.
        diagnosis = Diagnosis(NATIVE_KERNEL_NAME, str(RESOURCES))
        _diagnose(get_kernel_dict(), environment, diagnosis)
        yield diagnosis


def choose_start_mode(kernel_spec: Any, config: JsonObject) -> tuple[str, str]:
    """Return (start mode, reason) with which HandshakeProvisioner would start a kernel (L7).

    Args:
        kernel_spec: jupyter_client's ``KernelSpec``.
        config: the provisioner's config.

    Raises:
        traitlets.TraitError: ``config`` has an invalid value.
    """
    from ..launcher import selection
    from ..launcher.provisioner import HandshakeProvisioner

    provisioner = HandshakeProvisioner(kernel_spec=kernel_spec, **config)
    mode, is_guess = selection.choose(kernel_spec, provisioner.handshake, provisioner.rewriters)
    if provisioner.handshake is not None:
        return str(mode), f'its config has "handshake": "{provisioner.handshake}"'
    if mode is selection.StartMode.REWRITE:
        return str(mode), "its kernel is known to write its ports into the connection file"
    advertised = kernel_spec.kernel_protocol_version
    reason = (
        f"its kernel_protocol_version is {advertised}"
        if advertised
        else "it has no kernel_protocol_version"
    )
    return str(
        mode
    ), f"{reason}; if that fails, another start mode is tried" if is_guess else reason


def _diagnose(spec: JsonObject, environment: Mapping[str, str], diagnosis: Diagnosis) -> None:
    """Complete the diagnosis of a ``kernel.json`` with the content ``spec``."""
    folder = Path(diagnosis.folder)
    diagnosis.problems += program_problems(spec.get("argv"), folder, environment)
    settings = spec.get("metadata", {}).get("kernel_provisioner", {})
    is_named = "provisioner_name" in settings
    default = environment.get(DEFAULT_PROVISIONER, LOCAL_PROVISIONER)
    name = str(settings.get("provisioner_name", default))
    entry = _provisioners().get(name)
    diagnosis.provisioner, diagnosis.installed = name, entry is not None
    if entry is None:
        diagnosis.problems.append(
            f"this Jupyter hides it, because {name} is not installed in {sys.prefix}."
            f" Install it there ({_install_command(name)}), or remove the provisioner from the"
            " kernelspec (echokernel install --no-provisioner does it for the echo kernel)"
        )
        return
    kernel_spec = _as_kernel_spec(spec, folder, diagnosis)
    provisioner = _load(entry, diagnosis)
    if kernel_spec is None or provisioner is None:
        return
    if name == HANDSHAKE_PROVISIONER:
        config = settings.get("config", {}) if is_named else {}
        _diagnose_config(kernel_spec, config, provisioner.class_trait_names(), diagnosis)
    elif name == LOCAL_PROVISIONER:
        diagnosis.start_mode, diagnosis.reason = CLASSIC, f"{name} has no other start mode"
        better, reason = choose_start_mode(kernel_spec, {})
        if better != CLASSIC and not is_named:
            diagnosis.notes.append(
                f"{DEFAULT_PROVISIONER}={HANDSHAKE_PROVISIONER} would use the start mode {better}:"
                f" {reason}"
            )
    else:
        diagnosis.start_mode, diagnosis.reason = "unknown", f"{name} is not part of echokernel"


def _as_kernel_spec(spec: JsonObject, folder: Path, diagnosis: Diagnosis) -> Any:
    """Return jupyter_client's ``KernelSpec``, or None after a problem was added."""
    from jupyter_client.kernelspec import KernelSpec

    known = {key: value for key, value in spec.items() if key in KernelSpec.class_trait_names()}
    try:
        return KernelSpec(resource_dir=str(folder), **known)
    except TraitError as error:
        diagnosis.problems.append(f"{folder / 'kernel.json'} has a value of a wrong type: {error}")
        return None


def _load(entry: EntryPoint, diagnosis: Diagnosis) -> Any:
    """Return the provisioner's class, or None after a problem was added."""
    try:
        return entry.load()
    except Exception as error:  # An import of a foreign package can raise anything.
        diagnosis.problems.append(
            f"{entry.name} is installed but cannot be imported: {type(error).__name__}: {error};"
            f" reinstall the package that contains {entry.value}"
        )
        return None


def _diagnose_config(
    kernel_spec: Any, config: JsonObject, settings: list[str], diagnosis: Diagnosis
) -> None:
    """Complete the diagnosis of a kernelspec that HandshakeProvisioner starts."""
    where = f"{diagnosis.folder}/kernel.json: metadata.kernel_provisioner.config"
    unknown = sorted(set(config) - set(settings))
    diagnosis.problems += [
        f"{where} has {key!r}, which is not a setting of {HANDSHAKE_PROVISIONER}" for key in unknown
    ]
    known = {key: value for key, value in config.items() if key in settings}
    try:
        diagnosis.start_mode, diagnosis.reason = choose_start_mode(kernel_spec, known)
    except TraitError as error:
        diagnosis.problems.append(f"{where}: {error}")


def program_problems(argv: object, folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the reasons why a kernelspec's command would not start a kernel.

    Args:
        argv: the ``argv`` of the ``kernel.json``.
        folder: the folder of the ``kernel.json``.
        environment: environment variables; only ``PATH`` is used.
    """
    file = folder / "kernel.json"
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        yield f"{file}: argv must be a list of strings that starts with a program"
        return
    if not any("{connection_file}" in word for word in argv):
        yield (
            f"{file}: argv does not contain {{connection_file}}, so that the kernel does not get"
            " its startup file; add it"
        )
    major, minor = sys.version_info[:2]
    if argv[0] in ("python", f"python{major}", f"python{major}.{minor}"):
        return  # jupyter_client replaces these names by its own Python.
    program = argv[0].replace("{prefix}", sys.prefix).replace("{resource_dir}", str(folder))
    if shutil.which(program, path=environment.get("PATH")) is None:
        fault = "is not executable" if os.path.exists(program) else "does not exist"
        yield (
            f"{program} {fault}: reinstall the kernel, or remove {folder}"
            f" (jupyter kernelspec remove {folder.name})"
        )


def _read(file: Path, diagnosis: Diagnosis) -> JsonObject | None:
    """Return the content of a ``kernel.json``, or None after a problem was added."""
    try:
        spec = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        diagnosis.problems.append(f"{file} cannot be read: {error.strerror}")
        return None
    except ValueError as error:  # Includes text that is not UTF-8.
        diagnosis.problems.append(f"{file} is not JSON: {error}")
        return None
    metadata = spec.get("metadata", {}) if isinstance(spec, dict) else None
    provisioner = metadata.get("kernel_provisioner", {}) if isinstance(metadata, dict) else None
    config = provisioner.get("config", {}) if isinstance(provisioner, dict) else None
    for name, value in (
        ("the content", spec),
        ("metadata", metadata),
        ("metadata.kernel_provisioner", provisioner),
        ("metadata.kernel_provisioner.config", config),
    ):
        if not isinstance(value, dict):
            diagnosis.problems.append(f"{file}: {name} must be a JSON object")
            return None
    return dict(spec)


def _provisioners() -> dict[str, EntryPoint]:
    entries = entry_points(group="jupyter_client.kernel_provisioners")
    return {entry.name: entry for entry in entries}


def _install_command(provisioner: str) -> str:
    is_ours = provisioner == HANDSHAKE_PROVISIONER
    return f"pip install {'echokernel' if is_ours else f'<the package with {provisioner}>'}"


def _unknown(name: str) -> Diagnosis:
    from jupyter_client.kernelspec import KernelSpecManager

    folders = ", ".join(KernelSpecManager().kernel_dirs)
    problem = f"there is no such kernelspec in {folders}"
    return Diagnosis(name, "", problems=[problem])


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="echokernel doctor",
        description="Explain the kernelspecs of this Jupyter, hidden ones included: the"
        " provisioner, the start mode and its reason, the problems and their remedies.",
        epilog="Exit status: 0 if there is no problem, otherwise 1.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="kernelspecs (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(argv)
