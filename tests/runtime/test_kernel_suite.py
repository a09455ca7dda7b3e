"""The suites of jupyter_kernel_test, which are written for any kernel."""

import jupyter_kernel_test
import pytest
from jupyter_kernel_test.msgspec_v5 import validate_message
from support.managers import close_event_loop
from support.waits import DEADLINE


@pytest.fixture(autouse=True, scope="module")
def runtime_dir(tmp_path_factory):
    """The suites start one kernel for each class: one runtime directory for the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


@pytest.fixture(autouse=True, scope="module")
def synchronous_jupyter():
    yield
    close_event_loop()


class TestEcho(jupyter_kernel_test.KernelTests):
    kernel_name = "echo-handshake"
    language_name = "echo"
    file_extension = ".txt"
    code_hello_world = "hello, world"
    code_inspect_sample = "hello"
    complete_code_samples = ("anything", "", "{[(")
    completion_samples = ({"text": "nothing said begins like this zzz", "matches": set()},)

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.km.context.destroy(linger=0)

    def test_inspect(self):
        """What there is to inspect is the last cell: say something first."""
        self.flush_channels()
        self.execute_helper("hello")
        super().test_inspect()

    def execute_helper(self, code, timeout=DEADLINE, **options):
        """As the suite's own, for which a pause of 0.1 s before an idle is a failure."""
        msg_id = self.kc.execute(code, **options)
        reply = self.get_non_kernel_info_reply(timeout=timeout)
        validate_message(reply, "execute_reply", msg_id)
        said = []
        while not said or said[-1]["content"] != {"execution_state": "idle"}:
            got = self.kc.get_iopub_msg(timeout=timeout)
            if got["parent_header"].get("msg_id") == msg_id:
                validate_message(got, got["msg_type"], msg_id)
                said.append(got)
        assert said[0]["content"] == {"execution_state": "busy"}
        assert [m["content"]["code"] for m in said if m["msg_type"] == "execute_input"] == [code]
        return reply, [m for m in said[1:-1] if m["msg_type"] != "execute_input"]

    # An echo has no errors, results, displays, pages, stderr or clear_output: those tests of the
    # suite have no sample and say so.


class TestWelcome(jupyter_kernel_test.IopubWelcomeTests):
    kernel_name = "echo-handshake"
    support_iopub_welcome = True

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.km.context.destroy(linger=0)
