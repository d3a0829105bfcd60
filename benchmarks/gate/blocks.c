/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.c - instructions per block of memory: get, share with two readers, return. */
#include "driver.h"
#include "base/buf.h"

static struct fdl_pool *pool;

unsigned long measured(void)
{
    unsigned long n;

    for (n = 0; n < 20000; n++) {
        struct fdl_buf *buf = fdl_pool_get(pool);

        EXPECT(buf != NULL);
        fdl_buf_ref(buf);
        fdl_buf_ref(buf);
        fdl_buf_unref(buf);
        fdl_buf_unref(buf);
        fdl_buf_unref(buf);
    }
    return n;
}

int main(void)
{
    pool = fdl_pool_new(64, 1 << 16);
    EXPECT(pool != NULL);
    printf("%lu\n", measured());
    fdl_pool_free(pool);
    return 0;
}
