"""ipykernel's own tests of its messages, run on IPython's kernel class on echokernel.

pip downloads the sdist into pytest's cache, once; no part of it is copied here. Its tests run in a
separate pytest, in which the kernelspec ``python3`` starts echokernel.
"""

import sys
import tarfile
from xml.etree import ElementTree

import pytest
from support.kernelspecs import handshake_metadata
from support.programs import run_python

VERSION = "7.4.0"
"""Version of the suite; the kernel class is that of the installed ipykernel."""

TEST_TIME = 10
"""Seconds after which a test of the suite fails; the waits of the suite take up to 100."""

SUITE_TIME = 300
"""Seconds for one of its files."""

BY_DESIGN = {
    "test_message_spec.py": {
        "test_kernel_info_request": "K11: expects the feature `kernel subshells`",
        "test_subshell": "K11: no subshells; an unknown control request gets busy and idle only",
    },
    "test_kernel.py": {
        "test_sys_path_profile_dir": "uses ipykernel's own option --profile-dir",
        "test_sequential_control_messages": "executes on control; user code needs the main thread",
    },
    "test_async.py": {},
}
"""Tests that fail because of intended differences from ipykernel."""

DEFECTS = {
    "test_message_spec.py": {},
    "test_kernel.py": {
        "test_sys_path": "'' is not in sys.path",
        "test_matplotlib_inline_on_import": "MPLBACKEND is not set",
        "test_interrupt_during_pdb_set_trace": "pdb.Pdb catches the interrupt, and prompts again",
    },
    "test_async.py": {},
}
"""Tests that fail because of defects."""

RACES = {"test_print_to_correct_cell_from_thread[none]"}
"""Tests whose outcome depends on timing: a thread displays while its cell ends, and the output
belongs to this cell or to the next."""


@pytest.fixture
def suite(request):
    """The folder that contains the ``tests`` of the sdist."""
    folder = request.config.cache.mkdir("ipykernel-sdist")
    name = f"ipykernel-{VERSION}"
    if not (folder / name / "tests").is_dir():
        words = ("download", "--quiet", "--no-deps", "--no-binary=ipykernel",
                 "--dest", str(folder), f"ipykernel=={VERSION}")  # fmt: skip
        pip = run_python("-m", "pip", *words)
        assert pip.returncode == 0, f"the sdist of {name} cannot be downloaded:\n{pip.stderr}"
        with tarfile.open(folder / f"{name}.tar.gz") as sdist:
            sdist.extractall(folder, filter="data")
    return folder / name


def results_of(file, suite, tmp_path):
    """Run one file of the suite; return {test: failure or None}, without skipped tests."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    flaky\n")
    words = ["-c", "pytest.ini", "--rootdir", str(suite), "--noconftest", "-p", "no:cacheprovider",
             "-q", f"--timeout={TEST_TIME}", "--junitxml=results.xml"]  # fmt: skip
    run = run_python(
        *("-m", "pytest", *words, str(suite / "tests" / file)),
        timeout=SUITE_TIME,
        PYDEVD_DISABLE_FILE_VALIDATION="1",
        TMPDIR=str(tmp_path),
    )
    assert run.returncode in (0, 1), f"the suite could not be run:\n{run.stdout}{run.stderr}"
    results = {}
    for case in ElementTree.parse(tmp_path / "results.xml").iter("testcase"):
        if case.find("skipped") is None:
            failure = case.find("failure")
            failure = case.find("error") if failure is None else failure
            results[case.get("name")] = None if failure is None else failure.text
    return results


@pytest.mark.timeout(SUITE_TIME)
@pytest.mark.parametrize("file", ["test_message_spec.py", "test_kernel.py", "test_async.py"])
def test_the_suite_of_ipykernel_passes_except_for_known_differences(
    file, suite, kernelspecs, tmp_path
):
    """K4, K8, K11."""
    words = ("-m", "echokernel", "--kernel-class", "ipykernel.ipkernel:IPythonKernel")
    # Started by handshake: of 50 classic starts, one now and then loses a port to a kernel of
    # another test that runs at the same time.
    argv = [sys.executable, *words, "-f", "{connection_file}"]
    kernelspecs("python3", argv=argv, metadata=handshake_metadata(handshake="signed-frame"))
    results = results_of(file, suite, tmp_path)
    expected = {**BY_DESIGN[file], **DEFECTS[file]}
    assert set(expected) <= set(results), "a test that is expected to fail did not run"
    failed = {name for name, failure in results.items() if failure is not None} - RACES
    for name in failed - set(expected):
        lines = results[name].splitlines()
        pytest.fail("\n".join([f"{name} fails:", *lines[-20:]]), pytrace=False)
    assert set(expected) - failed == set(), "an expected failure passes: remove it from the table"
