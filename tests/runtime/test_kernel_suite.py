"""The suites of jupyter_kernel_test, which test any kernel (W2, K2-K4)."""

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
    completion_samples = ({"text": "no word of a cell begins like this zzz", "matches": set()},)

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.km.context.destroy(linger=0)

    def test_inspect(self):
        """Execute a cell first: an inspection shows the last cell."""
        self.flush_channels()
        self.execute_helper("hello")
        super().test_inspect()

    def execute_helper(self, code, timeout=DEADLINE, **options):
        """Do the same as the suite, which fails after a pause of 0.1 s before an idle status."""
        msg_id = self.kc.execute(code, **options)
        reply = self.get_non_kernel_info_reply(timeout=timeout)
        validate_message(reply, "execute_reply", msg_id)
        published = []
        while not published or published[-1]["content"] != {"execution_state": "idle"}:
            message = self.kc.get_iopub_msg(timeout=timeout)
            if message["parent_header"].get("msg_id") == msg_id:
                validate_message(message, message["msg_type"], msg_id)
                published.append(message)
        assert published[0]["content"] == {"execution_state": "busy"}
        inputs = [m["content"]["code"] for m in published if m["msg_type"] == "execute_input"]
        assert inputs == [code]
        return reply, [m for m in published[1:-1] if m["msg_type"] != "execute_input"]

    # An echo has no errors, results, displays, pages, stderr or clear_output. The suite skips its
    # tests of those features, because there is no sample.


class TestWelcome(jupyter_kernel_test.IopubWelcomeTests):
    kernel_name = "echo-handshake"
    support_iopub_welcome = True

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.km.context.destroy(linger=0)
