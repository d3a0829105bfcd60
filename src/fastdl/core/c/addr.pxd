# SPDX-License-Identifier: Apache-2.0


cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        pass
    struct sockaddr_storage:
        pass


cdef extern from "base/addr.h" nogil:
    enum fdl_addr_class:
        FDL_ADDR_PUBLIC
        FDL_ADDR_LOOPBACK
        FDL_ADDR_RESERVED
    enum fdl_addr_text:
        FDL_ADDR_IS_LITERAL
    enum fdl_addr_via:
        FDL_VIA_TYPED
        FDL_VIA_LINKED
    struct fdl_addr_policy:
        bint strict
    fdl_addr_text fdl_addr_from_text(const char *host, sockaddr_storage *out)
    fdl_addr_class fdl_addr_classify(const sockaddr *sa)
    bint fdl_addr_allowed(const sockaddr *sa, const fdl_addr_policy *policy, fdl_addr_via via,
                          fdl_addr_class from_class)
    bint fdl_addr_allowed_nfs(const sockaddr *sa, const fdl_addr_policy *policy,
                              fdl_addr_via via, fdl_addr_class from_class)
    bint fdl_addr_hop_port(int port)
