"""Makes a process die with its parent.

`python -I -S parent_death.py PARENT_PID COMMAND…` asks the kernel for SIGKILL on the parent's death
and becomes COMMAND. A separate step and not a `preexec_fn`, because running Python between fork and
exec of a process with threads can hang. The request survives exec; on a kernel without it (not
Linux) the command runs without it.

Standard library only: it starts in isolated mode, where no module of ours can be imported.
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Never returns."""
    parent_pid, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415  # not needed elsewhere, and missing on some platforms

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:  # the parent died before the request was set
            os.kill(os.getpid(), signal.SIGKILL)
    os.execvp(command[0], command)  # noqa: S606  # the command is the supervisor's own


if __name__ == "__main__":
    main()
