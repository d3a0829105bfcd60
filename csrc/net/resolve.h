/* SPDX-License-Identifier: Apache-2.0 */
/* net/resolve.h - FETCH: the addresses of a host name, for libraries that connect by
 * themselves: they are given the address that was checked, never the name.
 *
 * (libcurl resolves on its own: there the address is checked in its socket callback.)
 */
#ifndef FDL_RESOLVE_H
#define FDL_RESOLVE_H

#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

#include "net/conn.h"
#include "base/err.h"

#define FDL_ADDRS_MAX 8

struct fdl_addrs {
    struct sockaddr_storage list[FDL_ADDRS_MAX];
    size_t n;
};

/* Looks host up, in the resolver's order (RFC 6724); at most FDL_ADDRS_MAX of them.
 *   host    BORROWED for the call; an address literal without brackets is not looked up
 *   family  4 or 6, 0: either
 * Errors: FDL_E_NET, FDL_E_CANCELLED (wakeup). */
int fdl_resolve(const char *host, int family, long timeout_ms,
                const struct fdl_wakeup *wakeup, struct fdl_addrs *out,
                struct fdl_err *err);

#endif
