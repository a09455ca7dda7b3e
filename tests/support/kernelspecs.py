"""Kernelspecs of the tests."""

from __future__ import annotations

import json
from pathlib import Path


def write_kernelspec(kernels: Path, name: str, **spec: object) -> str:
    """Write ``kernel.json`` into a folder ``kernels`` of a Jupyter path; return the name."""
    folder = kernels / name
    folder.mkdir(parents=True)
    spec = {"display_name": name, "language": "test", **spec}
    (folder / "kernel.json").write_text(json.dumps(spec))
    return name


def handshake_metadata(**config: object) -> dict:
    """Return metadata of a kernelspec that names echokernel's provisioner."""
    provisioner = {"provisioner_name": "handshake-provisioner", "config": config}
    return {"kernel_provisioner": provisioner}
