/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_addr.c - invariant: an IPv4 address has one class, however it is embedded in an
 * IPv6 address, and no link leads to a service that hands out credentials.
 *
 * The input is 16 bytes of address and 1 of policy. */
#undef NDEBUG
#include "base/addr.h"
#include "replay.h"

#include <assert.h>
#include <string.h>

static enum fdl_addr_class class_of_v6(const uint8_t *addr, const uint8_t *v4,
                                       size_t at)
{
    struct sockaddr_in6 sa = {.sin6_family = AF_INET6};

    memcpy(&sa.sin6_addr, addr, 16);
    if (v4)
        memcpy((uint8_t *)&sa.sin6_addr + at, v4, 4);
    return fdl_addr_classify((const struct sockaddr *)&sa);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t mapped[16] = {[10] = 0xff, [11] = 0xff};
    static const uint8_t nat64[16] = {0x00, 0x64, 0xff, 0x9b};
    static const uint8_t six_to_four[16] = {0x20, 0x02};
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};

    if (size != 17)
        return 0;
    memcpy(&v4.sin_addr, data, 4);
    memcpy(&v6.sin6_addr, data, 16);
    enum fdl_addr_class plain = fdl_addr_classify((const struct sockaddr *)&v4);
    assert(class_of_v6(mapped, data, 12) == plain);
    assert(class_of_v6(nat64, data, 12) == plain);
    assert(class_of_v6(six_to_four, data, 2) == plain);

    enum fdl_addr_class any = class_of_v6(data, NULL, 0);
    assert(any >= FDL_ADDR_PUBLIC && any <= FDL_ADDR_RESERVED);
    /* One allowed range, the address itself: the most that an operator can say. */
    struct fdl_cidr own = {.family = AF_INET6, .bits = 128};
    memcpy(own.addr, data, 16);
    struct fdl_addr_policy policy = {.strict = data[16] & 1,
                                     .allow = data[16] & 2 ? &own : NULL,
                                     .n_allow = data[16] >> 1 & 1};
    for (int from = FDL_ADDR_PUBLIC; from <= FDL_ADDR_RESERVED; from++) {
        bool linked = fdl_addr_allowed((const struct sockaddr *)&v6, &policy,
                                       FDL_VIA_LINKED, (enum fdl_addr_class)from);
        if (any == FDL_ADDR_METADATA)
            assert(!linked);
        if (linked) /* who may be led there may also name it */
            assert(fdl_addr_allowed((const struct sockaddr *)&v6, &policy,
                                    FDL_VIA_TYPED, (enum fdl_addr_class)from));
    }
    return 0;
}
