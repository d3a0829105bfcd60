# SPDX-License-Identifier: Apache-2.0

from fastdl.core.c.addr cimport fdl_addr_policy
from fastdl.core.c.cookie cimport fdl_cookies
from fastdl.core.c.err cimport fdl_err
from fastdl.core.c.tls cimport fdl_identity


cdef extern from "net/route.h" nogil:
    struct fdl_route:
        int family
    int fdl_route_use_interface(fdl_route *route, const char *name, fdl_err *err)
    int fdl_route_pin(fdl_route *route, const char *pin, fdl_err *err)


cdef extern from "net/net.h" nogil:
    struct fdl_net:
        fdl_route route
        fdl_cookies cookies
        fdl_identity *identity
        long connect_timeout_ms
        long stall_timeout_ms
        bint follow_redirects
        bint system_trust
        fdl_addr_policy policy
        unsigned tried
    fdl_net *fdl_net_new()
    void fdl_net_free(fdl_net *net)
    int fdl_net_trust_pem(fdl_net *net, const char *pem, size_t len, fdl_err *err)
    int fdl_net_allow_cidr(fdl_net *net, const char *text, fdl_err *err)
    int fdl_net_allow_nfs(fdl_net *net, const char *text, fdl_err *err)
    int fdl_net_use_proxies(fdl_net *net, const char *http, const char *https,
                            const char *exempt, fdl_err *err)
