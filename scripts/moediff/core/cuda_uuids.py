"""A program that prints the UUIDs of the devices that CUDA sees, in its order, one a line.

CUDA reads CUDA_VISIBLE_DEVICES once in a process, so that a job that is to choose among devices cannot ask it
by itself. Where there is no driver nothing is printed. Imports nothing that is not Python's own.
"""

from __future__ import annotations

import ctypes
import uuid
from collections.abc import Iterator

DRIVER = "libcuda.so.1"


def uuids() -> Iterator[str]:
    """UUIDs as hexadecimal digits with hyphens: of a part of a GPU (MIG) its own, not the GPU's."""
    try:
        cuda = ctypes.CDLL(DRIVER)
    except OSError:
        return
    count, device, found = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return
    for number in range(count.value):
        if cuda.cuDeviceGet(ctypes.byref(device), number):
            return
        if cuda.cuDeviceGetUuid_v2(found, device):
            return
        yield str(uuid.UUID(bytes=bytes(found)))


if __name__ == "__main__":
    for found in uuids():
        print(found)
