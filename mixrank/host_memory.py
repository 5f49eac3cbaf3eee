"""How TensorFlow allocates host memory, decided before it allocates any."""

from __future__ import annotations

import os


def keep_freed_memory() -> None:
    """Has TensorFlow keep the host memory of freed tensors for its next ones, in this process and its children.

    Otherwise every tensor of some 10 MB or more is memory from the kernel, which clears each page when it is first
    touched: with the large tensors of a training step that can take longer than the step's arithmetic. TensorFlow reads
    the variables when it makes its first tensor. Those that the user has set stay as they are.
    """
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    # Its own limit is 64 GB.
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        os.environ.setdefault("TF_CPU_BFC_MEM_LIMIT_IN_MB", str(memory >> 20))
