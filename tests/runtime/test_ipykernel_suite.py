"""ipykernel's own tests of its messages, run on IPython's kernel class under our app.

The sdist is fetched by pip into pytest's cache, once; none of it is copied here. Its tests run in
a pytest of their own, in which the kernelspec ``python3`` is our app.
"""

import sys
import tarfile
from xml.etree import ElementTree

import pytest
from support.kernelspecs import handshake_metadata
from support.programs import run_python

VERSION = "7.4.0"
"""Of the suite; the kernel class is that of the ipykernel that is installed."""

TEST_TIME = 10
"""Seconds after which one of its tests has failed: their own waits take up to 100."""

SUITE_TIME = 300
"""Seconds for one of its files."""

BY_DESIGN = {
    "test_message_spec.py": {
        "test_kernel_info_request": "K2: expects the feature `kernel subshells`, which is not here",
        "test_subshell": "K2: likewise; an unknown control request is bracketed, not answered",
    },
    "test_kernel.py": {
        "test_sys_path_profile_dir": "gives ipykernel's own option --profile-dir",
        "test_sequential_control_messages": "executes on control: user code is for the main thread",
    },
    "test_async.py": {},
}
"""Tests that fail because we differ from ipykernel, and mean to."""

DEFECTS = {
    "test_message_spec.py": {},
    "test_kernel.py": {
        "test_sys_path": "'' is not in sys.path",
        "test_matplotlib_inline_on_import": "MPLBACKEND is not set",
        "test_interrupt_during_pdb_set_trace": "pdb.Pdb swallows the interrupt, and asks again",
    },
    "test_async.py": {},
}
"""Tests that fail, and should not."""

RACES = {"test_print_to_correct_cell_from_thread[none]"}
"""Tests of whose outcome nothing follows: in this one a thread displays while its cell ends, and
belongs to this cell or to the next."""


@pytest.fixture
def suite(request):
    """The folder in which the sdist's ``tests`` lie."""
    folder = request.config.cache.mkdir("ipykernel-sdist")
    name = f"ipykernel-{VERSION}"
    if not (folder / name / "tests").is_dir():
        words = ("download", "--quiet", "--no-deps", "--no-binary=ipykernel",
                 "--dest", str(folder), f"ipykernel=={VERSION}")  # fmt: skip
        done = run_python("-m", "pip", *words)
        assert done.returncode == 0, f"the sdist of {name} cannot be fetched:\n{done.stderr}"
        with tarfile.open(folder / f"{name}.tar.gz") as sdist:
            sdist.extractall(folder, filter="data")
    return folder / name


def results_of(file, suite, tmp_path):
    """Run one file of the suite; return {test: its failure, or None} of those that ran."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    flaky\n")
    words = ["-c", "pytest.ini", "--rootdir", str(suite), "--noconftest", "-p", "no:cacheprovider",
             "-q", f"--timeout={TEST_TIME}", "--junitxml=results.xml"]  # fmt: skip
    done = run_python(
        *("-m", "pytest", *words, str(suite / "tests" / file)),
        timeout=SUITE_TIME,
        PYDEVD_DISABLE_FILE_VALIDATION="1",
        TMPDIR=str(tmp_path),
    )
    assert done.returncode in (0, 1), f"the suite could not be run:\n{done.stdout}{done.stderr}"
    results = {}
    for case in ElementTree.parse(tmp_path / "results.xml").iter("testcase"):
        if case.find("skipped") is None:
            failure = case.find("failure")
            failure = case.find("error") if failure is None else failure
            results[case.get("name")] = None if failure is None else failure.text
    return results


@pytest.mark.timeout(SUITE_TIME)
@pytest.mark.parametrize("file", ["test_message_spec.py", "test_kernel.py", "test_async.py"])
def test_ipykernels_suite(file, suite, kernelspecs, tmp_path):
    words = ("-m", "echokernel", "--kernel-class", "ipykernel.ipkernel:IPythonKernel")
    # By a handshake: launched the classic way some fifty times, one now and then loses a port to
    # the kernels of tests that run at the same time.
    argv = [sys.executable, *words, "-f", "{connection_file}"]
    kernelspecs("python3", argv=argv, metadata=handshake_metadata(handshake="signed-frame"))
    results = results_of(file, suite, tmp_path)
    expected = {**BY_DESIGN[file], **DEFECTS[file]}
    assert set(expected) <= set(results), "a test that is expected to fail did not run"
    failed = {name for name, failure in results.items() if failure is not None} - RACES
    for name in failed - set(expected):
        lines = results[name].splitlines()
        pytest.fail("\n".join([f"{name} fails now:", *lines[-20:]]), pytrace=False)
    assert set(expected) - failed == set(), "passes now: take it from the table"
