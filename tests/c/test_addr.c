/* SPDX-License-Identifier: Apache-2.0 */
/* test_addr.c - where a connection may go: the edges of every special range, IPv4
 * inside IPv6, and who may lead whom where. The agreement with fastdl.model.address
 * over thousands of addresses is tests/unit/core/test_addr.py, and with the table
 * tests/vectors/addresses.json tests/unit/test_address_vectors.py, both through
 * check_address.c. */
#undef NDEBUG
#include "base/addr.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdio.h>
#include <string.h>

static struct sockaddr_storage at(const char *text)
{
    struct sockaddr_storage ss = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&ss;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ss;

    if (inet_pton(AF_INET, text, &in->sin_addr) == 1) {
        ss.ss_family = AF_INET;
    } else {
        assert(inet_pton(AF_INET6, text, &in6->sin6_addr) == 1);
        ss.ss_family = AF_INET6;
    }
    return ss;
}

static enum fdl_addr_class class_of(const char *text)
{
    struct sockaddr_storage ss = at(text);

    return fdl_addr_classify((struct sockaddr *)&ss);
}

static bool allowed(const char *text, bool strict, enum fdl_addr_via via,
                    enum fdl_addr_class from)
{
    struct sockaddr_storage ss = at(text);
    struct fdl_addr_policy policy = {.strict = strict};

    return fdl_addr_allowed((struct sockaddr *)&ss, &policy, via, from);
}

static void ranges_begin_and_end_where_the_registry_says(void)
{
    static const struct {
        const char *text;
        enum fdl_addr_class class;
    } edges[] = {
        {"0.255.255.255", FDL_ADDR_UNSPECIFIED},
        {"1.0.0.0", FDL_ADDR_PUBLIC},
        {"9.255.255.255", FDL_ADDR_PUBLIC},
        {"10.0.0.0", FDL_ADDR_PRIVATE},
        {"10.255.255.255", FDL_ADDR_PRIVATE},
        {"11.0.0.0", FDL_ADDR_PUBLIC},
        {"100.63.255.255", FDL_ADDR_PUBLIC},
        {"100.64.0.0", FDL_ADDR_PRIVATE},
        {"100.127.255.255", FDL_ADDR_PRIVATE},
        {"100.128.0.0", FDL_ADDR_PUBLIC},
        {"100.100.100.200", FDL_ADDR_METADATA},
        {"126.255.255.255", FDL_ADDR_PUBLIC},
        {"127.0.0.0", FDL_ADDR_LOOPBACK},
        {"127.255.255.255", FDL_ADDR_LOOPBACK},
        {"169.253.255.255", FDL_ADDR_PUBLIC},
        {"169.254.0.0", FDL_ADDR_LINK_LOCAL},
        {"169.254.169.254", FDL_ADDR_METADATA},
        {"169.254.170.2", FDL_ADDR_METADATA},
        {"169.254.255.255", FDL_ADDR_LINK_LOCAL},
        {"169.255.0.0", FDL_ADDR_PUBLIC},
        {"168.63.129.16", FDL_ADDR_METADATA},
        {"172.15.255.255", FDL_ADDR_PUBLIC},
        {"172.16.0.0", FDL_ADDR_PRIVATE},
        {"172.31.255.255", FDL_ADDR_PRIVATE},
        {"172.32.0.0", FDL_ADDR_PUBLIC},
        {"192.167.255.255", FDL_ADDR_PUBLIC},
        {"192.168.0.0", FDL_ADDR_PRIVATE},
        {"192.169.0.0", FDL_ADDR_PUBLIC},
        {"192.0.1.0", FDL_ADDR_PUBLIC},
        {"192.0.2.1", FDL_ADDR_RESERVED},
        {"198.17.255.255", FDL_ADDR_PUBLIC},
        {"198.18.0.0", FDL_ADDR_RESERVED},
        {"198.19.255.255", FDL_ADDR_RESERVED},
        {"198.20.0.0", FDL_ADDR_PUBLIC},
        {"223.255.255.255", FDL_ADDR_PUBLIC},
        {"224.0.0.0", FDL_ADDR_MULTICAST},
        {"239.255.255.255", FDL_ADDR_MULTICAST},
        {"240.0.0.0", FDL_ADDR_RESERVED},
        {"255.255.255.255", FDL_ADDR_RESERVED},
        {"::", FDL_ADDR_UNSPECIFIED},
        {"::1", FDL_ADDR_LOOPBACK},
        {"::2", FDL_ADDR_RESERVED},
        {"2000::", FDL_ADDR_PUBLIC},
        {"1fff:ffff::", FDL_ADDR_RESERVED},
        {"4000::", FDL_ADDR_RESERVED},
        {"fbff::", FDL_ADDR_RESERVED},
        {"fc00::", FDL_ADDR_PRIVATE},
        {"fdff:ffff::1", FDL_ADDR_PRIVATE},
        {"fe7f::", FDL_ADDR_RESERVED},
        {"fe80::", FDL_ADDR_LINK_LOCAL},
        {"febf::", FDL_ADDR_LINK_LOCAL},
        {"fec0::", FDL_ADDR_RESERVED},
        {"ff02::1", FDL_ADDR_MULTICAST},
        {"2001:db8::1", FDL_ADDR_RESERVED},
        {"3fff:fff::", FDL_ADDR_RESERVED},
        {"3fff:1000::", FDL_ADDR_PUBLIC},
        {"fd00:ec2::254", FDL_ADDR_METADATA},
        {"fd20:ce::254", FDL_ADDR_METADATA},
    };

    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
        if (class_of(edges[i].text) != edges[i].class) {
            fprintf(stderr, "%s is %d\n", edges[i].text, class_of(edges[i].text));
            assert(!"wrong class");
        }
}

static void what_carries_an_ipv4_address_is_checked_as_that(void)
{
    assert(class_of("::ffff:169.254.169.254") == FDL_ADDR_METADATA);
    assert(class_of("::ffff:8.8.8.8") == FDL_ADDR_PUBLIC);
    assert(class_of("64:ff9b::127.0.0.1") == FDL_ADDR_LOOPBACK);
    assert(class_of("64:ff9b:1::10.0.0.1") == FDL_ADDR_PRIVATE);
    assert(class_of("64:ff9b:1:1::10.0.0.1") == FDL_ADDR_RESERVED);
    assert(class_of("2002:7f00:1::") == FDL_ADDR_LOOPBACK);
    assert(class_of("2002:a9fe:a9fe::1") == FDL_ADDR_METADATA);
    assert(class_of("2001::80ff:fffe") == FDL_ADDR_LOOPBACK); /* Teredo: inverted */
    assert(class_of("2001:0:4136:e378::f5ff:fffe") == FDL_ADDR_PRIVATE);
    struct sockaddr other = {.sa_family = AF_UNIX};
    assert(fdl_addr_classify(&other) == FDL_ADDR_RESERVED);
}

static void a_link_never_leads_inwards(void)
{
    static const char *const inwards[] = {
        "10.0.0.1", "127.0.0.1", "169.254.1.1",     "::1",
        "fc00::1",  "fe80::1",   "::ffff:127.0.0.1"};

    for (size_t i = 0; i < sizeof inwards / sizeof *inwards; i++) {
        assert(!allowed(inwards[i], false, FDL_VIA_LINKED, FDL_ADDR_PUBLIC));
        assert(allowed(inwards[i], false, FDL_VIA_TYPED, FDL_ADDR_PUBLIC));
    }
    assert(allowed("10.0.0.1", false, FDL_VIA_LINKED, FDL_ADDR_PRIVATE));
    assert(allowed("8.8.8.8", false, FDL_VIA_LINKED, FDL_ADDR_PRIVATE));
    assert(!allowed("127.0.0.1", false, FDL_VIA_LINKED, FDL_ADDR_PRIVATE));
    assert(allowed("127.0.0.1", false, FDL_VIA_LINKED, FDL_ADDR_LOOPBACK));
    for (int from = FDL_ADDR_PUBLIC; from <= FDL_ADDR_RESERVED; from++) {
        assert(!allowed("169.254.169.254", false, FDL_VIA_LINKED,
                        (enum fdl_addr_class)from));
        assert(!allowed("224.0.0.1", false, FDL_VIA_LINKED, (enum fdl_addr_class)from));
        assert(!allowed("0.0.0.0", false, FDL_VIA_LINKED, (enum fdl_addr_class)from));
    }
}

static void the_strict_policy_knows_public_and_private_only(void)
{
    assert(allowed("8.8.8.8", true, FDL_VIA_TYPED, FDL_ADDR_PUBLIC));
    assert(allowed("192.168.7.7", true, FDL_VIA_TYPED, FDL_ADDR_PUBLIC));
    assert(allowed("192.168.7.7", true, FDL_VIA_LINKED, FDL_ADDR_PRIVATE));
    assert(!allowed("192.168.7.7", true, FDL_VIA_LINKED, FDL_ADDR_PUBLIC));
    assert(!allowed("127.0.0.1", true, FDL_VIA_TYPED, FDL_ADDR_PUBLIC));
    assert(!allowed("169.254.169.254", true, FDL_VIA_TYPED, FDL_ADDR_PUBLIC));
    assert(!allowed("fe80::1", true, FDL_VIA_TYPED, FDL_ADDR_PUBLIC));
    assert(!allowed("240.0.0.1", true, FDL_VIA_TYPED, FDL_ADDR_PUBLIC));
}

static void exceptions_count_but_never_for_metadata(void)
{
    struct fdl_cidr nets[] = {{.family = AF_INET, .addr = {127, 0, 0, 0}, .bits = 29},
                              {.family = AF_INET, .addr = {0}, .bits = 0},
                              {.family = AF_INET6, .addr = {0xFE, 0x80}, .bits = 10}};
    struct fdl_addr_policy policy = {.strict = true, .allow = nets, .n_allow = 1};
    struct sockaddr_storage in = at("127.0.0.7"), out = at("127.0.0.8"),
                            mapped = at("::ffff:127.0.0.1"), link = at("febf::1"),
                            meta = at("169.254.169.254");

#define OK(ss)                                                                         \
    fdl_addr_allowed((struct sockaddr *)&(ss), &policy, FDL_VIA_TYPED, FDL_ADDR_PUBLIC)
    assert(OK(in) && OK(mapped) && !OK(out) && !OK(link));
    policy.n_allow = 3;
    assert(OK(out) && OK(link) && !OK(meta));
}

static void nfs_needs_a_listed_server(void)
{
    struct fdl_cidr all[] = {{.family = AF_INET}, {.family = AF_INET6}},
                    list[] = {{.family = AF_INET, .addr = {10, 1}, .bits = 16}};
    struct fdl_addr_policy policy = {.strict = true, .nfs = list, .n_nfs = 1};
    struct sockaddr_storage in = at("10.1.2.3"), out = at("10.2.2.3"),
                            own = at("127.0.0.1"), meta = at("169.254.169.254");

#define NFS(ss, via, from)                                                             \
    fdl_addr_allowed_nfs((struct sockaddr *)&(ss), &policy, via, from)
    assert(NFS(in, FDL_VIA_TYPED, FDL_ADDR_PUBLIC));
    assert(!NFS(out, FDL_VIA_TYPED, FDL_ADDR_PUBLIC));
    assert(NFS(in, FDL_VIA_LINKED, FDL_ADDR_PRIVATE));
    assert(!NFS(in, FDL_VIA_LINKED, FDL_ADDR_PUBLIC));
    assert(!NFS(own, FDL_VIA_TYPED, FDL_ADDR_PUBLIC));
    policy.allow = all;
    policy.n_allow = 2; /* an exception to the classes is no list of NFS servers */
    assert(!NFS(out, FDL_VIA_TYPED, FDL_ADDR_PUBLIC));
    assert(NFS(own, FDL_VIA_TYPED, FDL_ADDR_PUBLIC));
    assert(!NFS(own, FDL_VIA_LINKED, FDL_ADDR_LOOPBACK));
    policy.nfs = all;
    policy.n_nfs = 2;
    assert(!NFS(meta, FDL_VIA_TYPED, FDL_ADDR_PUBLIC));
    policy = (struct fdl_addr_policy){.strict = false};
    assert(NFS(own, FDL_VIA_TYPED, FDL_ADDR_PUBLIC));
    assert(!NFS(in, FDL_VIA_LINKED, FDL_ADDR_PUBLIC));
}

int main(void)
{
    nfs_needs_a_listed_server();
    ranges_begin_and_end_where_the_registry_says();
    what_carries_an_ipv4_address_is_checked_as_that();
    a_link_never_leads_inwards();
    the_strict_policy_knows_public_and_private_only();
    exceptions_count_but_never_for_metadata();
    return 0;
}
