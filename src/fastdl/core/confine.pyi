# SPDX-License-Identifier: Apache-2.0
def confine_calls(*, network: bool, program: bool, broker: bool) -> int:
    """Leave this process, for good, the system calls that a download needs and no others.

    *network*  it may open sockets of TCP and UDP over IP, to connect with
    *program*  it may become one other program
    *broker*   its connect and bind wait for whoever reads the listener, whose descriptor is
               returned; without, -1

    Raises OSError where the kernel or the architecture has no filter, or no listener.
    """
