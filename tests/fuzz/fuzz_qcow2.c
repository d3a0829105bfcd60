/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_qcow2.c - invariant: the map of an accepted image tiles the guest's disk
 * exactly, reads nothing outside the file, and does not depend on how the tables
 * arrived. */
#undef NDEBUG
#include "decode/qcow2.h"
#include "replay.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MAX_VIRTUAL (1ull << 40)

struct range {
    uint64_t off, len;
};

static int by_off(const void *a, const void *b)
{
    uint64_t x = ((const struct range *)a)->off, y = ((const struct range *)b)->off;
    return (x > y) - (x < y);
}

/* A copy of exactly that size, so that reading on is seen by the sanitizer. */
static int feed_copy(struct fdl_qcow2 *img, const uint8_t *data, uint64_t off,
                     size_t len)
{
    struct fdl_err err;
    uint8_t *copy = malloc(len ? len : 1);

    assert(copy);
    memcpy(copy, data + off, len);
    int rc = fdl_qcow2_feed(img, off, copy, len, &err);
    free(copy);
    return rc;
}

static struct fdl_qcow2 *open_image(const uint8_t *data, size_t size)
{
    const struct fdl_qcow2_policy policy = {.max_virtual_size = MAX_VIRTUAL,
                                            .max_map_bytes = 64 << 20};
    struct fdl_qcow2 *img = NULL;
    struct fdl_err err;
    size_t len = size < 80 ? size : 80, need = 0;

    /* What it asks for is enough: asking twice for the same would never end. */
    for (;;) {
        uint8_t *head = malloc(len ? len : 1);
        assert(head);
        memcpy(head, data, len);
        int rc = fdl_qcow2_open(&img, head, len, size, &policy, &need, &err);
        free(head);
        assert(rc < 0 || img || need > len);
        assert(rc == 0 || (rc == err.code && !img));
        if (rc < 0 || img || need > size)
            return img;
        len = need;
    }
}

/* Feeds exactly what is asked for. */
static int feed_wanted(struct fdl_qcow2 *img, const uint8_t *data, size_t size)
{
    uint64_t off, len;

    while (fdl_qcow2_need(img, 0, &off, &len)) {
        if (off > size || len > size - off)
            return FDL_E_FORMAT;
        int rc = feed_copy(img, data, off, (size_t)len);
        if (rc < 0)
            return rc;
    }
    assert(fdl_qcow2_ready(img));
    return FDL_OK;
}

/* The same file as blocks, back to front, until nothing new is taken. */
static int feed_backwards(struct fdl_qcow2 *img, const uint8_t *data, size_t size)
{
    const size_t block = 64 << 10;

    for (unsigned round = 0; round < 2 && !fdl_qcow2_ready(img); round++) {
        for (size_t i = (size + block - 1) / block; i-- > 0;) {
            size_t len = size - i * block < 2 * block ? size - i * block : 2 * block;
            int rc = feed_copy(img, data, i * block, len);
            if (rc < 0)
                return rc;
        }
    }
    return fdl_qcow2_ready(img) ? FDL_OK : FDL_E_FORMAT;
}

static void check_map(const struct fdl_qcow2 *img, uint64_t size)
{
    const struct fdl_qcow2_info *info = fdl_qcow2_get_info(img);
    size_t plain = fdl_qcow2_plain_count(img), n = 0, cap;
    size_t compressed = fdl_qcow2_compressed_count(img);
    uint64_t off, len, end = 0, total = 0;
    struct fdl_qcow2_entry e;

    cap = plain + compressed;
    for (size_t i = 0; fdl_qcow2_zero_run(img, i, &off, &len); i++)
        cap++;
    struct range *r = calloc(cap ? cap : 1, sizeof *r);
    assert(r);
    for (size_t i = 0; i < plain; i++) {
        fdl_qcow2_plain(img, i, &e);
        assert(e.len == 0 || (e.host >= end && e.host + e.len <= size));
        assert(e.len == 0 || e.host >= info->cluster_size);
        if (e.len)
            end = e.host + e.len;
        r[n++] = (struct range){e.guest, e.len};
    }
    end = 0;
    for (size_t i = 0; i < compressed; i++) {
        fdl_qcow2_compressed(img, i, &e);
        assert(e.host >= end && e.host_len > 0 && e.host + e.host_len <= size);
        assert(e.host_len <= 2ull * info->cluster_size && e.len <= info->cluster_size);
        end = e.host;
        r[n++] = (struct range){e.guest, e.len};
    }
    for (size_t i = 0; fdl_qcow2_zero_run(img, i, &off, &len); i++)
        r[n++] = (struct range){off, len};
    assert(n == cap);
    qsort(r, n, sizeof *r, by_off);
    for (size_t i = 0; i < n; i++) {
        if (r[i].len == 0)
            continue;
        assert(r[i].off == total);
        total += r[i].len;
    }
    assert(total == info->virtual_size);
    free(r);
}

/* The extents name every needed byte, in order, and end. */
static void check_extents(const struct fdl_qcow2 *img, uint64_t size)
{
    uint64_t from = 0, off, len, sum = 0;
    unsigned rounds = 0;

    while (fdl_qcow2_next_extent(img, from, &off, &len)) {
        assert(len > 0 && off >= from && off + len <= size);
        from = off + len;
        sum += len;
        if (++rounds > 10000)
            return;
    }
    assert(sum >= fdl_qcow2_get_info(img)->data_bytes);
    assert(from <= fdl_qcow2_get_info(img)->needed_end);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fdl_qcow2 *img = open_image(data, size);

    if (!img)
        return 0;
    int rc = feed_wanted(img, data, size);
    if (rc == FDL_OK) {
        check_map(img, size);
        check_extents(img, size);
        struct fdl_qcow2 *twin = open_image(data, size);
        assert(twin);
        assert(feed_backwards(twin, data, size) == FDL_OK);
        check_map(twin, size);
        assert(memcmp(fdl_qcow2_get_info(img), fdl_qcow2_get_info(twin),
                      sizeof(struct fdl_qcow2_info)) == 0);
        fdl_qcow2_free(twin);
    }
    fdl_qcow2_free(img);
    return 0;
}
