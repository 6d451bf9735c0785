"""What a training step frees, kept for the next one."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)


def keep_freed_memory() -> None:
    """Let glibc's allocator keep freed memory, for the rest of this process.

    Each step frees its activations and asks for the same again. Blocks of megabytes would go back to Linux every time,
    and come anew as pages to be zeroed one by one: 15 to 30 % of a training's time. Nothing happens where the
    allocator is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**26)
