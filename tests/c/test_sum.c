/* SPDX-License-Identifier: Apache-2.0 */
/* test_sum.c - XXH3-64 is the same however its bytes come, and whichever vectors the
 * processor has: a journal written on one host is read on another. */
#undef NDEBUG
#include "base/sum.h"

#include <assert.h>
#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SIZE ((size_t)300000)

static void cut_in_parts(const unsigned char *data, size_t len, size_t part)
{
    struct fdl_sum *sum = fdl_sum_new();

    assert(sum);
    for (int again = 0; again < 2; again++) { /* the second time after a reset */
        for (size_t at = 0; at < len; at += part)
            fdl_sum_update(sum, data + at, len - at < part ? len - at : part);
        assert(fdl_sum_value(sum) == XXH3_64bits(data, len));
        fdl_sum_reset(sum);
    }
    fdl_sum_free(sum);
}

int main(void)
{
    static const size_t lengths[] = {0, 1, 16, 129, 240, 241, 1024, 65536, SIZE};
    static const size_t parts[] = {1, 7, 63, 64, 256, 1000, 4096, 131072, SIZE};
    unsigned char *data = malloc(SIZE);

    assert(data);
    srand(1);
    for (size_t i = 0; i < SIZE; i++)
        data[i] = (unsigned char)rand();
    assert(fdl_sum_of("", 0) ==
           UINT64_C(0x2d06800538d394c2)); /* of the specification */
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        assert(fdl_sum_of(data, lengths[i]) == XXH3_64bits(data, lengths[i]));
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++)
            cut_in_parts(data, lengths[i], parts[k]);
    }
    fdl_sum_free(NULL);
    free(data);
    return 0;
}
