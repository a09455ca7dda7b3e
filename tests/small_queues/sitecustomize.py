"""For a kernel whose queues for subscribers are a tenth as long, and that waits longer for one that
does not read: a loaded machine pauses for more than three seconds. Python runs it as it starts."""

from echokernel.runtime import sockets as channels
from echokernel.runtime.iopub.flow_control import backlog, slow_readers

channels.IOPUB_SEND_HWM //= 10
backlog.BACKLOG_MESSAGES //= 10
slow_readers.PATIENCE *= 3
