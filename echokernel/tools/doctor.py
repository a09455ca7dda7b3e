"""``echokernel doctor``: which kernelspecs this Jupyter sees, hides and how each would be started.

jupyter_client drops a kernelspec whose provisioner is not installed where *it* runs, with a line
in a log that few people see. So the ``kernel.json`` files are looked for here, in the same folders,
and each is explained: where, which provisioner, which way it would start and why, what is wrong,
what to do. What is wrong with the surroundings (environment variables, the runtime directory) comes
first. Settings in jupyter's configuration files are not read.
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
"""The environment variable by which jupyter_client chooses where a kernelspec names nothing."""

LOCAL = "local-provisioner"
OURS = "handshake-provisioner"
CLASSIC = "classic"
"""Ports are chosen before the kernel holds them: somebody else may take them meanwhile."""


@dataclass
class Diagnosis:
    """One ``kernel.json``, or the surroundings of all.

    Attributes:
        problems: what is wrong, each with what to do.
        notes: what is worth knowing, and not wrong.
    """

    name: str
    folder: str
    provisioner: str | None = None
    installed: bool = False
    way: str | None = None
    why: str | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def doctor(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    options = _parse(argv)
    found = list(diagnoses(os.environ))
    if options.names:
        wanted = {name.lower() for name in options.names}
        unknown = sorted(wanted - {each.name for each in found})
        found = [each for each in found if each.name in wanted]
        found += [_unknown(name) for name in unknown]
    everything = [surroundings(os.environ), *found]
    well = not any(each.problems for each in everything)
    if options.json:
        jupyter, *kernelspecs = (asdict(each) for each in everything)
        print(json.dumps({"well": well, "jupyter": jupyter, "kernelspecs": kernelspecs}, indent=1))
    else:
        print("\n\n".join(told(each) for each in everything))
    return 0 if well else 1


def told(diagnosis: Diagnosis) -> str:
    """Return ``diagnosis`` as people read it."""
    lines = [f"{diagnosis.name}  {diagnosis.folder}"]
    if diagnosis.provisioner is not None:
        installed = "installed" if diagnosis.installed else "NOT INSTALLED here"
        lines.append(f"  provisioner  {diagnosis.provisioner} ({installed})")
    if diagnosis.way is not None:
        lines.append(f"  starts by    {diagnosis.way}: {diagnosis.why}")
    lines += [f"  note         {note}" for note in diagnosis.notes]
    lines += [f"  WRONG        {problem}" for problem in diagnosis.problems]
    return "\n".join(lines if len(lines) > 1 else [*lines, "  well"])


# --- the surroundings ---------------------------------------------------------------------------


def surroundings(environment: Mapping[str, str]) -> Diagnosis:
    """Return what concerns every kernelspec: jupyter_client, variables, the runtime directory."""
    runtime = connection_files.runtime_dir()
    made = Diagnosis(f"jupyter_client {version('jupyter_client')}", sys.prefix)
    made.problems += jupyter_client_problems(version("jupyter_client"))
    default = environment.get(DEFAULT_PROVISIONER)
    if default is not None and default not in _provisioners():
        made.problems.append(
            f"{DEFAULT_PROVISIONER}={default}, which is not installed here: every kernelspec that"
            f" names no provisioner is hidden, python3 too. Unset it, or {_how_to_get(default)}"
        )
    elif default is not None:
        made.notes.append(f"{DEFAULT_PROVISIONER}={default} starts what names no provisioner")
    made.problems += runtime_dir_problems(runtime)
    made.notes.append(f"connection files go to {runtime}")
    return made


def jupyter_client_problems(installed: str) -> Iterator[str]:
    """Say what is wrong with that version of jupyter_client."""
    first = installed.split(".")[0]
    if first.isdecimal() and int(first) < 7:
        yield (
            f"jupyter_client {installed} knows no provisioners, which came with 7.0: no kernel is"
            " started by a handshake. pip install -U jupyter_client"
        )


def runtime_dir_problems(folder: Path) -> Iterator[str]:
    """Say why connection files in ``folder`` would fail, or be read by others."""
    probe = folder / f".echokernel-doctor-{os.getpid()}"
    remedy = "set JUPYTER_RUNTIME_DIR to a folder of yours on a local disk"
    try:
        connection_files.write_private(probe, {})
    except OSError as error:
        yield f"no connection file can be written to {folder}: {error.strerror}; {remedy}"
        return
    try:
        yield from privacy_problems(probe, remedy)
    finally:
        probe.unlink()


def privacy_problems(file: Path, remedy: str) -> Iterator[str]:
    """Say whether others can read ``file``, which was made for its owner alone."""
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077 and os.name == "posix":
        yield (
            f"{file.parent} is on a file system that gave a file of mode 0600 the mode {mode:04o}:"
            f" others can read the keys of your kernels; {remedy}"
        )


# --- the kernelspecs ----------------------------------------------------------------------------


def diagnoses(environment: Mapping[str, str]) -> Iterator[Diagnosis]:
    """Diagnose every ``kernel.json`` on the Jupyter path, those that jupyter_client hides too."""
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager

    first: dict[str, Path] = {}
    for kernels in KernelSpecManager().kernel_dirs:
        for file in sorted(Path(kernels).glob("*/kernel.json")):
            diagnosis = Diagnosis(file.parent.name.lower(), str(file.parent))
            if first.setdefault(diagnosis.name, file.parent) != file.parent:
                # That is how a user's own goes before the system's; many have forgotten theirs.
                diagnosis.notes.append(f"never used: {first[diagnosis.name]} comes first")
            spec = _read(file, diagnosis)
            if spec is not None:
                _diagnose(spec, environment, diagnosis)
            yield diagnosis
    if NATIVE_KERNEL_NAME not in first:
        # What jupyter_client then offers; it has no file.
        diagnosis = Diagnosis(NATIVE_KERNEL_NAME, str(RESOURCES))
        _diagnose(get_kernel_dict(), environment, diagnosis)
        yield diagnosis


def chosen_way(kernel_spec: Any, config: JsonObject) -> tuple[str, str]:
    """Return (way, why) by which our provisioner, so configured, would start ``kernel_spec``.

    The only place that asks it: the decision is the provisioner's own (L7).

    Raises:
        traitlets.TraitError: ``config`` has a value that it does not take.
    """
    from ..launcher import selection
    from ..launcher.provisioner import HandshakeProvisioner

    provisioner = HandshakeProvisioner(kernel_spec=kernel_spec, **config)
    mode, is_guess = selection.choose(kernel_spec, provisioner.handshake, provisioner.rewriters)
    way = str(mode)
    if provisioner.handshake is not None:
        return way, f'its config says "handshake": "{provisioner.handshake}"'
    if mode is selection.StartMode.REWRITE:
        return way, "it is known to write its ports into the connection file"
    why = f"its kernel_protocol_version is {kernel_spec.kernel_protocol_version or 'not given'}"
    return way, f"{why}; if that fails, another way follows" if is_guess else why


def _diagnose(spec: JsonObject, environment: Mapping[str, str], diagnosis: Diagnosis) -> None:
    """Fill in ``diagnosis`` for a ``kernel.json`` that could be read."""
    from jupyter_client.kernelspec import KernelSpec

    folder = Path(diagnosis.folder)
    diagnosis.problems += program_problems(spec.get("argv"), folder, environment)
    named = spec.get("metadata", {}).get("kernel_provisioner", {})
    name = str(named.get("provisioner_name", environment.get(DEFAULT_PROVISIONER, LOCAL)))
    config = named.get("config", {}) if "provisioner_name" in named else {}
    entry = _provisioners().get(name)
    diagnosis.provisioner, diagnosis.installed = name, entry is not None
    if entry is None:
        diagnosis.problems.append(
            f"this Jupyter hides it, because {name} is not installed in {sys.prefix}."
            f" {_how_to_get(name)} there, or let the kernelspec name no provisioner"
            " (echokernel install --no-provisioner makes such a one of the echo kernel)"
        )
        return
    known = {key: value for key, value in spec.items() if key in KernelSpec.class_trait_names()}
    try:
        kernel_spec = KernelSpec(resource_dir=str(folder), **known)
    except TraitError as error:
        diagnosis.problems.append(f"{folder / 'kernel.json'} has a value of a wrong type: {error}")
        return
    try:
        provisioner = entry.load()
    except Exception as error:  # whatever somebody's package raises when it is imported
        diagnosis.problems.append(
            f"{name} is installed and cannot be imported: {type(error).__name__}: {error};"
            f" reinstall the package that has {entry.value}"
        )
        return
    if name == OURS:
        _diagnose_ours(kernel_spec, config, provisioner.class_trait_names(), diagnosis)
    elif name == LOCAL:
        diagnosis.way, diagnosis.why = CLASSIC, "its provisioner knows no other"
        better, why = chosen_way(kernel_spec, {})
        if better != CLASSIC and "provisioner_name" not in named:
            diagnosis.notes.append(
                f"{DEFAULT_PROVISIONER}={OURS} would start it by {better}: {why}"
            )
    else:
        diagnosis.way, diagnosis.why = "its own way", f"{name} is not ours to ask"


def _diagnose_ours(
    kernel_spec: Any, config: JsonObject, settings: list[str], diagnosis: Diagnosis
) -> None:
    """Fill in what our provisioner would do."""
    where = f"{diagnosis.folder}/kernel.json: metadata.kernel_provisioner.config"
    unknown = sorted(set(config) - set(settings))
    diagnosis.problems += [f"{where} has {key!r}, which {OURS} does not know" for key in unknown]
    known = {key: value for key, value in config.items() if key in settings}
    try:
        diagnosis.way, diagnosis.why = chosen_way(kernel_spec, known)
    except TraitError as error:
        diagnosis.problems.append(f"{where}: {error}")


def program_problems(argv: object, folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Say why the command ``argv`` of the kernelspec in ``folder`` would not start a kernel."""
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        yield f"{folder / 'kernel.json'}: argv must be a list of words, the first a program"
        return
    if not any("{connection_file}" in word for word in argv):
        yield (
            f"{folder / 'kernel.json'}: no word of argv holds {{connection_file}}: the kernel is"
            " not told where to listen"
        )
    major, minor = sys.version_info[:2]
    if argv[0] in ("python", f"python{major}", f"python{major}.{minor}"):
        return  # jupyter_client takes its own
    program = argv[0].replace("{prefix}", sys.prefix).replace("{resource_dir}", str(folder))
    if shutil.which(program, path=environment.get("PATH")) is None:
        there = "is no program that can be executed" if os.path.exists(program) else "is not there"
        yield (
            f"{program} {there}: reinstall the kernel, or remove {folder}"
            f" (jupyter kernelspec remove {folder.name})"
        )


def _read(file: Path, diagnosis: Diagnosis) -> JsonObject | None:
    """Return what ``file`` holds; None if it cannot be used, which ``diagnosis`` then says."""
    try:
        spec = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        diagnosis.problems.append(f"{file} cannot be read: {error.strerror}")
        return None
    except ValueError as error:  # also what is not UTF-8
        diagnosis.problems.append(f"{file} is not JSON: {error}")
        return None
    metadata = spec.get("metadata", {}) if isinstance(spec, dict) else None
    named = metadata.get("kernel_provisioner", {}) if isinstance(metadata, dict) else None
    config = named.get("config", {}) if isinstance(named, dict) else None
    for what, value in (
        ("it", spec),
        ("metadata", metadata),
        ("metadata.kernel_provisioner", named),
        ("metadata.kernel_provisioner.config", config),
    ):
        if not isinstance(value, dict):
            diagnosis.problems.append(f"{file}: {what} must be a JSON object")
            return None
    return dict(spec)


def _provisioners() -> dict[str, EntryPoint]:
    return {each.name: each for each in entry_points(group="jupyter_client.kernel_provisioners")}


def _how_to_get(provisioner: str) -> str:
    what = "echokernel" if provisioner == OURS else f"<the package that has {provisioner}>"
    return f"pip install {what}"


def _unknown(name: str) -> Diagnosis:
    from jupyter_client.kernelspec import KernelSpecManager

    looked = ", ".join(KernelSpecManager().kernel_dirs)
    return Diagnosis(name, "", problems=[f"there is no such kernelspec in {looked}"])


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="echokernel doctor",
        description="Explain the kernelspecs of this Jupyter, hidden ones too: which provisioner,"
        " which way each would start and why, what is wrong and what to do.",
        epilog="Exit status: 0 if all is well, 1 if something is wrong.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="kernelspecs (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(argv)
