/* SPDX-License-Identifier: Apache-2.0 */
#include "base/addr.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct v4_block {
    uint32_t net; /* host byte order */
    int bits;
    enum fdl_addr_class class;
};

struct v6_block {
    unsigned char net[16];
    int bits;
    enum fdl_addr_class class;
};

/* IANA special-purpose registries and the clouds' documents; the first match counts. */
static const struct v4_block v4_blocks[] = {
    {0xA9FEA9FE, 32, FDL_ADDR_METADATA},   /* 169.254.169.254, nearly every cloud */
    {0xA9FEAA02, 32, FDL_ADDR_METADATA},   /* 169.254.170.2, AWS containers */
    {0xA9FEAA17, 32, FDL_ADDR_METADATA},   /* 169.254.170.23, AWS pods */
    {0xA9FE2A2A, 32, FDL_ADDR_METADATA},   /* 169.254.42.42, Scaleway */
    {0xA9FE0017, 32, FDL_ADDR_METADATA},   /* 169.254.0.23, Tencent */
    {0x646464C8, 32, FDL_ADDR_METADATA},   /* 100.100.100.200, Alibaba */
    {0xA83F8110, 32, FDL_ADDR_METADATA},   /* 168.63.129.16, Azure */
    {0xC00000C0, 32, FDL_ADDR_METADATA},   /* 192.0.0.192, Oracle */
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

static const struct v6_block v6_blocks[] = {
    {{0xFD, 0, 0x0E, 0xC2, [14] = 2, 0x54}, 128, FDL_ADDR_METADATA}, /* AWS */
    {{0xFD, 0, 0x0E, 0xC2, [15] = 0x23}, 128, FDL_ADDR_METADATA},    /* AWS pods */
    {{0xFD, 0x20, 0, 0xCE, [14] = 2, 0x54}, 128, FDL_ADDR_METADATA}, /* Google */
    {{0xFD, 0, 0, 0x42, [15] = 0x42}, 128, FDL_ADDR_METADATA},       /* Scaleway */
    {{0xFE, 0x80, [12] = 0xA9, 0xFE, 0xA9, 0xFE},
     128,
     FDL_ADDR_METADATA}, /* OpenStack */
    {{0}, 128, FDL_ADDR_UNSPECIFIED},
    {{[15] = 1}, 128, FDL_ADDR_LOOPBACK},
    {{0xFC}, 7, FDL_ADDR_PRIVATE},
    {{0xFE, 0x80}, 10, FDL_ADDR_LINK_LOCAL},
    {{0xFF}, 8, FDL_ADDR_MULTICAST},
    {{0x20, 0x01}, 23, FDL_ADDR_RESERVED},             /* protocol assignments */
    {{0x20, 0x01, 0x0D, 0xB8}, 32, FDL_ADDR_RESERVED}, /* documentation */
    {{0x3F, 0xFF}, 20, FDL_ADDR_RESERVED},             /* documentation */
    {{0x20}, 3, FDL_ADDR_PUBLIC},
    {{0}, 0, FDL_ADDR_RESERVED}, /* nothing else has been given out */
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

static const unsigned char mapped[12] = {[10] = 0xFF, 0xFF};

static enum fdl_addr_class classify_v6(const unsigned char a[16])
{
    static const unsigned char nat64[12] = {0x00, 0x64, 0xFF, 0x9B};
    static const unsigned char local_nat64[12] = {0x00, 0x64, 0xFF, 0x9B, 0x00, 0x01};

    if (memcmp(a, mapped, 12) == 0 || memcmp(a, nat64, 12) == 0 ||
        memcmp(a, local_nat64, 12) == 0)
        return classify_v4(v4_at(a + 12));
    if (a[0] == 0x20 &&
        a[1] == 0x02) /* 6to4 carries the IPv4 address after its prefix */
        return classify_v4(v4_at(a + 2));
    if (memcmp(a, "\x20\x01\x00\x00", 4) ==
        0) /* Teredo: the client's address, inverted */
        return classify_v4(~v4_at(a + 12));
    size_t i = 0;
    while (!has_prefix(a, v6_blocks[i].net, v6_blocks[i].bits))
        i++; /* the last one takes everything */
    return v6_blocks[i].class;
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

/* ---- hosts as text -------------------------------------------------------------- */

static bool ends_with(const char *text, size_t len, const char *end)
{
    size_t n = strlen(end);

    return len >= n && strncasecmp(text + len - n, end, n) == 0;
}

enum fdl_addr_text fdl_addr_from_text(const char *host, struct sockaddr_storage *out)
{
    struct sockaddr_in *in = (struct sockaddr_in *)out;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
    char name[256];
    size_t len = strlen(host);

    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        return FDL_ADDR_IS_LITERAL;
    }
    bool absolute = len > 0 && host[len - 1] == '.'; /* it is the same name */
    len -= absolute;
    if (len == 0 || len >= sizeof name || strchr(host, ':') || strchr(host, '%'))
        return FDL_ADDR_IS_UNUSUAL;
    memcpy(name, host, len);
    name[len] = '\0';
    in->sin_family = AF_INET;
    if (inet_pton(AF_INET, name, &in->sin_addr) == 1)
        return absolute ? FDL_ADDR_IS_UNUSUAL : FDL_ADDR_IS_LITERAL;
    /* RFC 6761, 6.3; what else it could be would be a trap. */
    if (strcasecmp(name, "localhost") == 0 || ends_with(name, len, ".localhost")) {
        in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return FDL_ADDR_IS_LITERAL;
    }
    /* The URL standard: where the last label is a number the host is an address, which
     * resolvers take as 2130706433, 0177.1, 0x7f.1 and 127.1 too. */
    const char *last = strrchr(name, '.');
    last = last ? last + 1 : name;
    bool hex = last[0] == '0' && (last[1] == 'x' || last[1] == 'X');
    if (strspn(last, "0123456789") == strlen(last) ||
        (hex && strspn(last + 2, "0123456789abcdefABCDEF") == strlen(last + 2)))
        return FDL_ADDR_IS_UNUSUAL;
    return FDL_ADDR_IS_NAME;
}

/* ---- ranges --------------------------------------------------------------------- */

bool fdl_cidr_parse(const char *text, struct fdl_cidr *out)
{
    char addr[INET6_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    size_t len = slash ? (size_t)(slash - text) : strlen(text);

    memset(out, 0, sizeof *out);
    if (len == 0 || len >= sizeof addr)
        return false;
    memcpy(addr, text, len);
    addr[len] = '\0';
    if (inet_pton(AF_INET, addr, out->addr) == 1)
        out->family = AF_INET;
    else if (inet_pton(AF_INET6, addr, out->addr) == 1)
        out->family = AF_INET6;
    else
        return false;
    int most = out->family == AF_INET ? 32 : 128;
    out->bits = most;
    if (slash) {
        char *end;
        long bits = strtol(slash + 1, &end, 10);
        if (slash[1] < '0' || slash[1] > '9' || *end || bits > most)
            return false;
        out->bits = (int)bits;
    }
    return true;
}

static bool in_cidr(const struct sockaddr *sa, const struct fdl_cidr *cidr)
{
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

static bool listed(const struct sockaddr *sa, const struct fdl_cidr *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (in_cidr(sa, &list[i]))
            return true;
    return false;
}

/* ---- the policy ----------------------------------------------------------------- */

/* Never to an address that its source might be too far outside to know. */
static bool may_lead(enum fdl_addr_class from, enum fdl_addr_class to)
{
    switch (from) {
    case FDL_ADDR_PRIVATE:
        return to == FDL_ADDR_PUBLIC || to == FDL_ADDR_PRIVATE;
    case FDL_ADDR_LOOPBACK:
        return to == FDL_ADDR_PUBLIC || to == FDL_ADDR_PRIVATE ||
               to == FDL_ADDR_LOOPBACK || to == FDL_ADDR_RESERVED;
    case FDL_ADDR_LINK_LOCAL:
        return to == FDL_ADDR_PUBLIC || to == FDL_ADDR_PRIVATE ||
               to == FDL_ADDR_LINK_LOCAL;
    case FDL_ADDR_RESERVED: /* unknown: perhaps the whole Internet */
        return to == FDL_ADDR_PUBLIC || to == FDL_ADDR_RESERVED;
    default:
        return to == FDL_ADDR_PUBLIC;
    }
}

static bool strict_knows(enum fdl_addr_class to)
{
    return to == FDL_ADDR_PUBLIC || to == FDL_ADDR_PRIVATE;
}

bool fdl_addr_allowed(const struct sockaddr *sa, const struct fdl_addr_policy *policy,
                      enum fdl_addr_via via, enum fdl_addr_class from)
{
    enum fdl_addr_class to = fdl_addr_classify(sa);

    if (to != FDL_ADDR_METADATA && listed(sa, policy->allow, policy->n_allow))
        return true;
    if (policy->strict && !strict_knows(to))
        return false;
    return via == FDL_VIA_TYPED || may_lead(from, to);
}

bool fdl_addr_allowed_nfs(const struct sockaddr *sa,
                          const struct fdl_addr_policy *policy, enum fdl_addr_via via,
                          enum fdl_addr_class from)
{
    enum fdl_addr_class to = fdl_addr_classify(sa);
    bool typed = via == FDL_VIA_TYPED;

    if (!policy->strict)
        return fdl_addr_allowed(sa, policy, via, from);
    if (to == FDL_ADDR_METADATA)
        return false;
    if (listed(sa, policy->nfs, policy->n_nfs))
        return typed || fdl_addr_allowed(sa, policy, via, from);
    return typed && !strict_knows(to) && listed(sa, policy->allow, policy->n_allow);
}

bool fdl_addr_hop_port(uint16_t port)
{
    return port >= 1024 || port == 80 || port == 443 || port == 2049;
}
