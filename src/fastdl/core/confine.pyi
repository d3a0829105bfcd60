# SPDX-License-Identifier: Apache-2.0
def confine_calls(*, network: bool, program: bool, broker: bool) -> int:
    """Restrict this process permanently to the system calls that a download needs.

    *network*  it may open sockets of TCP and UDP over IP, to connect with
    *program*  it may execute one other program
    *broker*   its connect and bind wait for the reader of the listener, whose descriptor is
               returned; -1 without

    Raises OSError if the kernel or the architecture has no filter, or no listener.
    """
