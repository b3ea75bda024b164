"""Memory that a program on CPUs has freed stays with its process.

A compiled step takes one block of hundreds of megabytes and gives it back at its end. glibc hands such a block to the kernel at once, and every step
starts with page faults; on a virtual machine that reports free pages to its host they then cost milliseconds each two megabytes
(docs/performance.md, "Against timm").
"""

import ctypes

# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """From now on, freed memory is used again by this process and never handed back to the kernel: its resident size stays at its peak.

    Works with glibc, for the whole process, and best before threads start. Returns whether the C library has taken it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    # Blocks outside the heap and heaps of single threads are handed back whatever the threshold says, so there are none of them.
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_ARENA_MAX, 1)])
