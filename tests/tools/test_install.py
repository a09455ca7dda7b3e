"""``echokernel install``: where the kernelspec is written, and each fault as one line.

tests/launcher/test_stock_clients.py starts a kernel on an installed kernelspec.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from importlib import metadata

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from support.programs import ECHOKERNEL, run_program

from echokernel.tools.install import install

KERNELS = ("share", "jupyter", "kernels")


def run_install(*words, **environment):
    return run_program(ECHOKERNEL, "install", *words, **environment)


@pytest.mark.parametrize("prefix", ["here", "~/there", "./~"])
def test_a_prefix_is_a_path_as_in_a_shell(prefix, tmp_path):
    """``~`` is the home directory, also where a shell leaves it as it is: ``--prefix=~/there``."""
    home = tmp_path / "home"
    home.mkdir()
    done = run_install(f"--prefix={prefix}", HOME=str(home), USERPROFILE=str(home))
    assert (done.returncode, done.stderr) == (0, "")
    base = home / "there" if prefix == "~/there" else tmp_path / prefix
    folder = base.joinpath(*KERNELS, "echo-handshake")
    assert done.stdout == f"Installed kernelspec echo-handshake in {folder}\n"
    assert json.loads((folder / "kernel.json").read_text())["argv"][0] == sys.executable


def test_a_name_is_written_in_lower_case(tmp_path):
    """As jupyter_client does it; the message names the kernelspec that exists."""
    done = run_install("--prefix=.", "--name=My.Echo-2_b")
    folder = tmp_path.joinpath(*KERNELS, "my.echo-2_b")
    assert done.stdout == f"Installed kernelspec my.echo-2_b in {folder}\n"
    assert (folder / "kernel.json").exists()


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--prefix", "", "the path is empty; name a folder, '.' is the current one"),
        (
            "--prefix",
            "~no-such-user/x",
            "'~no-such-user/x' is not in a known home directory;"
            " './~no-such-user/x' is a folder of that name",
        ),
        ("--display-name", " ", "the name is empty; leave the option out for the default"),
        *(
            (
                "--name",
                name,
                f"{name!r} is not a name for a kernelspec;"
                " use ASCII letters, digits, '.', '-' and '_'",
            )
            for name in ("", " ", "a/b", "my kernel", "écho", "a\n", ".", "..")
        ),
    ],
)
def test_a_wrong_value_is_a_usage_error(option, value, sentence, tmp_path):
    """jupyter_client takes an empty value for an absent one, and ``..`` for a folder to remove."""
    words = [f"{option}={value}"] if option == "--prefix" else ["--prefix=.", f"{option}={value}"]
    done = run_install(*words)
    assert (done.returncode, done.stdout) == (2, "")
    line = f"echokernel install: error: argument {option}: {sentence}"
    assert done.stderr.splitlines()[-1] == line
    assert list(tmp_path.iterdir()) == []


def test_a_prefix_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    done = run_install("--prefix=file")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "echokernel install: the kernelspec cannot be written:"
        f" {tmp_path / 'file' / 'share'}: {os.strerror(errno.ENOTDIR)};"
        " choose another folder with --user, --sys-prefix or --prefix\n"
    )


COPY_ERROR = shutil.Error([("from", "to", "[Errno 28] No space left on device: 'to'")])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/usr/x"), "/usr/x: Permission denied"),
        (COPY_ERROR, "[Errno 28] No space left on device: 'to'"),
        (OSError("Cannot call rmtree on a symbolic link"), "Cannot call rmtree on a symbolic link"),
    ],
)
def test_a_folder_that_cannot_be_written(error, reason, monkeypatch, capsys):
    """Raised in place of jupyter_client's function: a test that runs as root may write anywhere."""

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(KernelSpecManager, "install_kernel_spec", refuse)
    assert install([]) == 1
    assert capsys.readouterr() == (
        "",
        f"echokernel install: the kernelspec cannot be written: {reason};"
        " choose another folder with --user, --sys-prefix or --prefix\n",
    )


@pytest.mark.parametrize("files", [None, [], metadata.PackageNotFoundError("echokernel")])
def test_an_installation_without_a_kernelspec(files, monkeypatch, capsys):
    """From a zip, or from a checkout by PYTHONPATH."""

    def list_files(name):
        if isinstance(files, Exception):
            raise files
        return files

    monkeypatch.setattr(metadata, "files", list_files)
    assert install(["--prefix=."]) == 1
    assert capsys.readouterr() == (
        "",
        "echokernel install: this installation of echokernel has no kernelspec;"
        " install echokernel again with pip\n",
    )
