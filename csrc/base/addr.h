/* SPDX-License-Identifier: Apache-2.0 */
/* base/addr.h - may a connection go to this address? Pure; checked at connect time, on
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

/* The message for an address that fdl_addr_allowed() refuses, and where exceptions are
 * listed. */
#define FDL_ADDR_FORBIDDEN                                                             \
    "the address policy forbids the host's address "                                   \
    "(exceptions: --allow; secstorage.allowed.internal.sites)"

struct fdl_cidr {
    int family;             /* AF_INET or AF_INET6 */
    unsigned char addr[16]; /* network byte order */
    int bits;
};

/* a.b.c.d/n, v6/n or a bare address; host bits do not count. False where malformed. */
bool fdl_cidr_parse(const char *text, struct fdl_cidr *out);

/* IPv4 inside IPv6 (mapped, NAT64, 6to4, Teredo) is checked as the IPv4 address. */
enum fdl_addr_class fdl_addr_classify(const struct sockaddr *sa);

enum fdl_addr_text {
    FDL_ADDR_IS_NAME,
    FDL_ADDR_IS_LITERAL, /* an address; localhost and its kind count as one */
    FDL_ADDR_IS_UNUSUAL, /* what some resolver takes for an address: 0x7f.1, 2130706433,
                            fe80::1%eth0 */
};

/* What is known of a host without a resolver (a proxy resolves names where
 * nobody here sees it). *out is set with FDL_ADDR_IS_LITERAL, its port is 0. */
enum fdl_addr_text fdl_addr_from_text(const char *host, struct sockaddr_storage *out);

/* How a name came to be connected to. */
enum fdl_addr_via {
    FDL_VIA_TYPED,  /* the user wrote it */
    FDL_VIA_LINKED, /* a redirect, a metalink or a Link field led here */
};

struct fdl_addr_policy {
    bool strict; /* the agent's: what was typed comes from tenants */
    const struct fdl_cidr
        *allow; /* BORROWED: always allowed, but for metadata addresses */
    size_t n_allow;
    const struct fdl_cidr *nfs; /* BORROWED: NFS servers of the strict policy */
    size_t n_nfs;
};

/*   from  class of the address that led here; ignored for FDL_VIA_TYPED
 * Strict: public and private addresses only. Otherwise what the user typed may be
 * anywhere. Under both a link may not lead inwards: from public only to public, from
 * private not to loopback, and never to metadata, multicast or unspecified addresses.
 * Twin of fastdl.model.address.refused(). */
bool fdl_addr_allowed(const struct sockaddr *sa, const struct fdl_addr_policy *policy,
                      enum fdl_addr_via via, enum fdl_addr_class from);

/* The same for a connection that would speak NFS, where the host's own address opens
 * what other tenants keep: under the strict policy the server has to be listed in
 * policy->nfs, or, where it was typed, be one that is allowed by exception only. */
bool fdl_addr_allowed_nfs(const struct sockaddr *sa,
                          const struct fdl_addr_policy *policy, enum fdl_addr_via via,
                          enum fdl_addr_class from);

/* Whether a link may lead to this port: no well-known one but those of HTTP and NFS. */
bool fdl_addr_hop_port(uint16_t port);

#endif
