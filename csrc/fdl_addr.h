/* SPDX-License-Identifier: Apache-2.0 */
/* fdl_addr.h - may a connection go to this address? Pure; judged at connect time, on
 * every hop, so that a name which resolves differently later changes nothing. */
#ifndef FDL_ADDR_H
#define FDL_ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* Ordered by how far the outside can see them: see fdl_addr_allowed(). */
enum fdl_addr_class {
    FDL_ADDR_PUBLIC,
    FDL_ADDR_PRIVATE,
    FDL_ADDR_LOOPBACK,
    FDL_ADDR_LINK_LOCAL,
    FDL_ADDR_METADATA, /* the addresses at which clouds hand out credentials */
    FDL_ADDR_MULTICAST,
    FDL_ADDR_UNSPECIFIED,
    FDL_ADDR_RESERVED,
};

struct fdl_cidr {
    int family;             /* AF_INET or AF_INET6 */
    unsigned char addr[16]; /* network byte order */
    int bits;
};

/* IPv4 inside IPv6 (mapped, NAT64, 6to4, Teredo) is judged as the IPv4 address. */
enum fdl_addr_class fdl_addr_classify(const struct sockaddr *sa);

/* How a name came to be connected to. */
enum fdl_addr_via {
    FDL_VIA_TYPED,  /* the user wrote it */
    FDL_VIA_LINKED, /* a redirect or a metalink led here */
};

struct fdl_addr_policy {
    bool strict; /* the agent's: no loopback, link-local, reserved at all */
    const struct fdl_cidr
        *allow; /* BORROWED: always allowed, but for metadata addresses */
    size_t n_allow;
};

/*   from  class of the address that led here; ignored for FDL_VIA_TYPED and when strict
 * Strict: only public and private addresses. Otherwise what the user typed may be
 * anywhere, and a link may not lead inwards: from public only to public, from private
 * not to loopback, and never to metadata, multicast or unspecified addresses. Twin of
 * fastdl.model.address.refused(). */
bool fdl_addr_allowed(const struct sockaddr *sa, const struct fdl_addr_policy *policy,
                      enum fdl_addr_via via, enum fdl_addr_class from);

#endif
