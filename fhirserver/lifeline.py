"""Ties a process to its parent: the kernel signals it when the parent ends, however it ends.

Linux: prctl(2), PR_SET_PDEATHSIG, PR_SET_NAME. On other systems nothing is tied.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_libc = ctypes.CDLL(None, use_errno=True)


def tie(last: signal.Signals = signal.SIGKILL, parent: int | None = None) -> None:
    """Have this process get the signal `last` when its parent ends.

    `parent` is the process that should be the parent: where it has ended already, so does this one.
    """
    if sys.platform != "linux":
        return
    _libc.prctl(_PR_SET_PDEATHSIG, int(last), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def name(text: str) -> None:
    """Has lists of processes show this name (15 letters of it) for this one."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_NAME, text.encode()[:15], 0, 0, 0)
