"""The echo kernel of kernmini's README, reduced to the output of the other echo kernels.

The README's kernel publishes a result in addition to the stream; this one publishes the stream.
"""

import sys

from kernmini import run_kernel


class EchoShell:
    def set_stream_sender(self, sender):
        self.stream = sender

    def kernel_info(self):
        return {
            "implementation": "echo",
            "implementation_version": "1",
            "banner": "echo",
            "language_info": {"name": "echo", "mimetype": "text/plain", "file_extension": ".txt"},
        }

    async def execute(self, code, **_):
        self.stream("stdout", code)
        return {}


if __name__ == "__main__":
    run_kernel(sys.argv[-1], EchoShell, own_process_group=True)
