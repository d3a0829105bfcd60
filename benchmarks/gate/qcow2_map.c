/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2_map.c - instructions per cluster to read the tables of a qcow2 image and to
 * walk its map: header, L1, sixteen full L2 tables, extents and zero runs. */
#include <string.h>

#include "driver.h"
#include "decode/qcow2.h"

#define CLUSTER 65536ul
#define TABLES 16ul
#define ENTRIES (CLUSTER / 8)
#define COPIED (1ull << 63)
#define L1_AT CLUSTER
#define REFCOUNTS_AT (2 * CLUSTER)
#define L2_AT (3 * CLUSTER)
#define DATA_AT ((3 + TABLES) * CLUSTER)
#define META_LEN DATA_AT

static unsigned char *meta;

static void put32(size_t at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        meta[at + (size_t)i] = (unsigned char)(value >> (24 - 8 * i));
}

static void put64(size_t at, uint64_t value)
{
    put32(at, (uint32_t)(value >> 32));
    put32(at + 4, (uint32_t)value);
}

/* Every fourth cluster of the guest is unallocated; the others lie in order. */
static uint64_t fill(void)
{
    uint64_t host = DATA_AT;

    put32(0, FDL_QCOW2_MAGIC);
    put32(4, 3);
    put32(20, 16); /* cluster_bits */
    put64(24, TABLES * ENTRIES * CLUSTER);
    put32(36, TABLES); /* l1_size */
    put64(40, L1_AT);
    put64(48, REFCOUNTS_AT);
    put32(56, 1);    /* clusters of the refcount table */
    put32(96, 4);    /* refcount_order */
    put32(100, 104); /* header_length */
    for (size_t table = 0; table < TABLES; table++) {
        put64(L1_AT + 8 * table, (L2_AT + table * CLUSTER) | COPIED);
        for (size_t entry = 0; entry < ENTRIES; entry++) {
            if (entry % 4 == 3)
                continue;
            put64(L2_AT + table * CLUSTER + 8 * entry, host | COPIED);
            host += CLUSTER;
        }
    }
    return host;
}

static uint64_t file_size;

unsigned long measured(void)
{
    const struct fdl_qcow2_policy policy = {0};
    struct fdl_qcow2 *image = NULL;
    struct fdl_err err;
    size_t need = 0;
    uint64_t off = 0, len = 0, from = 0;

    EXPECT(fdl_qcow2_open(&image, meta, META_LEN, file_size, &policy, &need, &err) ==
           0);
    EXPECT(image != NULL);
    while (fdl_qcow2_need(image, 0, &off, &len)) {
        EXPECT(off + len <= META_LEN);
        EXPECT(fdl_qcow2_feed(image, off, meta + off, len, &err) == 0);
    }
    EXPECT(fdl_qcow2_ready(image));
    for (size_t i = 0; i < fdl_qcow2_plain_count(image); i++) {
        struct fdl_qcow2_entry entry;

        fdl_qcow2_plain(image, i, &entry);
        EXPECT(entry.host >= DATA_AT);
    }
    for (size_t i = 0; fdl_qcow2_zero_run(image, i, &off, &len); i++)
        EXPECT(len >= CLUSTER);
    while (fdl_qcow2_next_extent(image, from, &off, &len))
        from = off + len;
    EXPECT(from == file_size);
    fdl_qcow2_free(image);
    return TABLES * ENTRIES;
}

int main(void)
{
    meta = calloc(1, META_LEN);
    EXPECT(meta != NULL);
    file_size = fill();
    printf("%lu\n", measured());
    free(meta);
    return 0;
}
