/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_addr_text.c - invariant: a host that the system's resolver takes for an address
 * is recognised as that address, or as an unusual one, never as a name; an accepted
 * range has a prefix length that its family allows.
 *
 * The input is the text. */
#undef NDEBUG
#include "base/addr.h"
#include "replay.h"

#include <assert.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr *b)
{
    if (a->ss_family != b->sa_family)
        return false;
    if (b->sa_family == AF_INET)
        return memcmp(&((const struct sockaddr_in *)a)->sin_addr,
                      &((const struct sockaddr_in *)(const void *)b)->sin_addr, 4) == 0;
    return memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
                  &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr, 16) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST};
    struct addrinfo *found = NULL;
    struct sockaddr_storage sa;
    struct fdl_cidr cidr;
    char *text = malloc(size + 1);

    assert(text);
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    enum fdl_addr_text kind = fdl_addr_from_text(text, &sa);
    if (getaddrinfo(text, NULL, &hints, &found) == 0) {
        assert(kind != FDL_ADDR_IS_NAME);
        if (kind == FDL_ADDR_IS_LITERAL)
            assert(same_address(&sa, found->ai_addr));
        freeaddrinfo(found);
    }
    if (kind == FDL_ADDR_IS_LITERAL)
        assert(sa.ss_family == AF_INET || sa.ss_family == AF_INET6);
    if (fdl_cidr_parse(text, &cidr)) {
        assert(cidr.family == AF_INET || cidr.family == AF_INET6);
        assert(cidr.bits >= 0 && cidr.bits <= (cidr.family == AF_INET ? 32 : 128));
    }
    free(text);
    return 0;
}
