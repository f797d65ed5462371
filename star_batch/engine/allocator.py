"""Settings of the C library's allocator. Knows no tensor.

A layer on CPU asks for tens of megabytes and gives them back at once. By default glibc returns such blocks to the
kernel, which clears every page anew when they are asked for again.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # names and numbers of malloc.h


def keep_memory() -> None:
    """Let this process keep what it has freed; without effect where the C library is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_M_TOP_PAD, 2**26)
