/* SPDX-License-Identifier: Apache-2.0 */
#include "fdl_addr.h"

#include <string.h>

struct v4_block {
    uint32_t net; /* host byte order */
    int bits;
    enum fdl_addr_class class;
};

/* IANA special-purpose registry; the first match counts. */
static const struct v4_block v4_blocks[] = {
    {0xA9FEA9FE, 32, FDL_ADDR_METADATA},   /* 169.254.169.254 */
    {0xA9FEAA02, 32, FDL_ADDR_METADATA},   /* 169.254.170.2, container credentials */
    {0x646464C8, 32, FDL_ADDR_METADATA},   /* 100.100.100.200 */
    {0xA83F8110, 32, FDL_ADDR_METADATA},   /* 168.63.129.16 */
    {0x00000000, 8, FDL_ADDR_UNSPECIFIED}, /* 0/8 */
    {0x0A000000, 8, FDL_ADDR_PRIVATE},     /* 10/8 */
    {0x64400000, 10, FDL_ADDR_PRIVATE},    /* 100.64/10, carrier NAT */
    {0x7F000000, 8, FDL_ADDR_LOOPBACK},    /* 127/8 */
    {0xA9FE0000, 16, FDL_ADDR_LINK_LOCAL}, /* 169.254/16 */
    {0xAC100000, 12, FDL_ADDR_PRIVATE},    /* 172.16/12 */
    {0xC0A80000, 16, FDL_ADDR_PRIVATE},    /* 192.168/16 */
    {0xC0000000, 24, FDL_ADDR_RESERVED},   /* 192.0.0/24 */
    {0xC0000200, 24, FDL_ADDR_RESERVED},   /* 192.0.2/24 */
    {0xC0586300, 24, FDL_ADDR_RESERVED},   /* 192.88.99/24 */
    {0xC6120000, 15, FDL_ADDR_RESERVED},   /* 198.18/15 */
    {0xC6336400, 24, FDL_ADDR_RESERVED},   /* 198.51.100/24 */
    {0xCB007100, 24, FDL_ADDR_RESERVED},   /* 203.0.113/24 */
    {0xE0000000, 4, FDL_ADDR_MULTICAST},   /* 224/4 */
    {0xF0000000, 4, FDL_ADDR_RESERVED},    /* 240/4 */
};

static uint32_t mask(int bits)
{
    return bits == 0 ? 0 : ~UINT32_C(0) << (32 - bits);
}

static enum fdl_addr_class classify_v4(uint32_t ip)
{
    for (size_t i = 0; i < sizeof v4_blocks / sizeof *v4_blocks; i++)
        if ((ip & mask(v4_blocks[i].bits)) == v4_blocks[i].net)
            return v4_blocks[i].class;
    return FDL_ADDR_PUBLIC;
}

static uint32_t v4_at(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool has_prefix(const unsigned char *addr, const unsigned char *net, int bits)
{
    int bytes = bits / 8, rest = bits % 8;

    if (memcmp(addr, net, (size_t)bytes) != 0)
        return false;
    if (rest == 0)
        return true;
    unsigned m = (0xFFu << (8 - rest)) & 0xFFu;
    return (addr[bytes] & m) == (net[bytes] & m);
}

static enum fdl_addr_class classify_v6(const unsigned char a[16])
{
    static const unsigned char zero[16];
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};
    static const unsigned char nat64[12] = {0x00, 0x64, 0xFF, 0x9B};
    static const unsigned char local_nat64[12] = {0x00, 0x64, 0xFF, 0x9B, 0x00, 0x01};
    static const unsigned char metadata[2][16] = {
        {0xFD, 0x00, 0x0E, 0xC2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x54},
        {0xFD, 0x20, 0x00, 0xCE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x54}};

    if (memcmp(a, zero, 15) == 0 && a[15] <= 1)
        return a[15] ? FDL_ADDR_LOOPBACK : FDL_ADDR_UNSPECIFIED;
    for (size_t i = 0; i < sizeof metadata / sizeof *metadata; i++)
        if (memcmp(a, metadata[i], 16) == 0)
            return FDL_ADDR_METADATA;
    if (memcmp(a, mapped, 12) == 0 || memcmp(a, nat64, 12) == 0 ||
        memcmp(a, local_nat64, 12) == 0)
        return classify_v4(v4_at(a + 12));
    if (a[0] == 0x20 &&
        a[1] == 0x02) /* 6to4 carries the IPv4 address after its prefix */
        return classify_v4(v4_at(a + 2));
    if (memcmp(a, "\x20\x01\x00\x00", 4) ==
        0) /* Teredo: the client's address, inverted */
        return classify_v4(~v4_at(a + 12));
    if (memcmp(a, "\x20\x01\x0D\xB8", 4) == 0) /* documentation */
        return FDL_ADDR_RESERVED;
    if (a[0] == 0x3F && a[1] == 0xFF &&
        (a[2] & 0xF0) == 0) /* 3fff::/20, documentation */
        return FDL_ADDR_RESERVED;
    if ((a[0] & 0xFE) == 0xFC)
        return FDL_ADDR_PRIVATE;
    if (a[0] == 0xFE && (a[1] & 0xC0) == 0x80)
        return FDL_ADDR_LINK_LOCAL;
    if (a[0] == 0xFF)
        return FDL_ADDR_MULTICAST;
    /* Only 2000::/3 has been given out. */
    return (a[0] & 0xE0) == 0x20 ? FDL_ADDR_PUBLIC : FDL_ADDR_RESERVED;
}

enum fdl_addr_class fdl_addr_classify(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof in);
        return classify_v4(ntohl(in.sin_addr.s_addr));
    }
    if (sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, sa, sizeof in6);
        return classify_v6(in6.sin6_addr.s6_addr);
    }
    return FDL_ADDR_RESERVED;
}

static bool in_cidr(const struct sockaddr *sa, const struct fdl_cidr *cidr)
{
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};

    if (sa->sa_family == AF_INET && cidr->family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof in);
        return has_prefix((const unsigned char *)&in.sin_addr, cidr->addr, cidr->bits);
    }
    if (sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, sa, sizeof in6);
        const unsigned char *a = in6.sin6_addr.s6_addr;
        if (cidr->family == AF_INET6)
            return has_prefix(a, cidr->addr, cidr->bits);
        return memcmp(a, mapped, 12) == 0 && has_prefix(a + 12, cidr->addr, cidr->bits);
    }
    return false;
}

bool fdl_addr_allowed(const struct sockaddr *sa, const struct fdl_addr_policy *policy,
                      enum fdl_addr_via via, enum fdl_addr_class from)
{
    enum fdl_addr_class to = fdl_addr_classify(sa);

    for (size_t i = 0; to != FDL_ADDR_METADATA && i < policy->n_allow; i++)
        if (in_cidr(sa, &policy->allow[i]))
            return true;
    if (policy->strict)
        return to == FDL_ADDR_PUBLIC || to == FDL_ADDR_PRIVATE;
    if (via == FDL_VIA_TYPED)
        return true;
    if (to == FDL_ADDR_METADATA || to == FDL_ADDR_MULTICAST ||
        to == FDL_ADDR_UNSPECIFIED)
        return false;
    switch (from) {
    case FDL_ADDR_PUBLIC:
        return to == FDL_ADDR_PUBLIC;
    case FDL_ADDR_PRIVATE:
        return to == FDL_ADDR_PUBLIC || to == FDL_ADDR_PRIVATE;
    case FDL_ADDR_LOOPBACK:
        return to != FDL_ADDR_LINK_LOCAL;
    default:
        return to == FDL_ADDR_PUBLIC || to == FDL_ADDR_PRIVATE || to == from;
    }
}
