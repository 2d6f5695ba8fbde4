"""Sets glibc's allocator to keep the memory that a training step frees.

By default every block of over 32 MB (a CIFAR activation at batch 128) is mapped anew and given back at once, and the
kernel zeroes each of its pages again at every step: a third of the time of a small network's step. With the two
thresholds out of reach the memory of the last step serves the next one. The process stays as large as its largest step.
"""

from __future__ import annotations

import ctypes
import functools
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # names of mallopt(3)
_NEVER = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Set the thresholds of this process; True where the allocator is glibc's and took them."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {_MMAP_THRESHOLD: _NEVER, _TRIM_THRESHOLD: _NEVER, _TOP_PAD: 1 << 26}
    return all([mallopt(name, value) == 1 for name, value in wanted.items()])
