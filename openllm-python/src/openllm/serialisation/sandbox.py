"""Takes the network away from this process for good, in the kernel: what a hostile file makes it do cannot call home.

Called by the child process that converts weights (`convert.py`), before it reads anything. Linux on x86-64 and ARM64;
elsewhere nothing is done and the caller is told. Filter format: linux/filter.h, linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}  # (AUDIT_ARCH_*, number of socket(2))
_IO_URING_SETUP = 425  # would open sockets past the filter
_X32 = 0x40000000  # calls of the x32 ABI have numbers of their own
_AF_UNIX = 1
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|J*|K, BPF_RET|K
_NUMBER_AT, _ARCH_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # offsets in struct seccomp_data, little-endian
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EACCES  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2


def forbid_network() -> bool:
    """Let this thread, its later threads and children make no socket but a Unix one; it cannot be undone.

    Returns:
        whether the kernel took the filter.
    """
    facts = _MACHINES.get(platform.machine())
    if facts is None or sys.platform != "linux" or sys.byteorder != "little":
        return False
    code = _program(*facts)
    block = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(block))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    no = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), no, no, no) != 0:
        return False
    return libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), header, no, no) == 0


def _program(arch: int, socket_number: int) -> bytes:
    steps = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_EQUAL, 0, 7, arch),  # -> refuse
        (_LOAD, 0, 0, _NUMBER_AT),
        (_JUMP_GREATER_EQUAL, 5, 0, _X32),  # -> refuse
        (_JUMP_EQUAL, 4, 0, _IO_URING_SETUP),  # -> refuse
        (_JUMP_EQUAL, 0, 2, socket_number),  # else -> allow
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_JUMP_EQUAL, 0, 1, _AF_UNIX),  # else -> refuse
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("<HBBI", code, yes, no, value) for code, yes, no, value in steps)
