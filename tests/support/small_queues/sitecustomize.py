"""Changes limits of a kernel, since the kernel cannot be started with others yet.

Python runs this module at its start. The queues for subscribers are a tenth as long. The kernel
waits longer for a subscriber that does not read: a loaded machine can pause for more than three
seconds.
"""

from echokernel.runtime import sockets
from echokernel.runtime.iopub.flow_control import backlog, slow_readers

sockets.IOPUB_SEND_HWM //= 10
backlog.BACKLOG_MESSAGES //= 10
slow_readers.PATIENCE *= 3
