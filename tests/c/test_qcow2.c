/* SPDX-License-Identifier: Apache-2.0 */
/* test_qcow2.c - headers and tables that lie are refused with their class, and the map
 * of an honest one is right. The images are made here, byte by byte. */
#undef NDEBUG
#include "decode/qcow2.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 512-byte clusters: 0 header, 1 refcounts, 2 L1, 3 L2, 4… data. 64 entries per L2. */
#define CLUSTER 512u
#define CLUSTERS 16u
#define SIZE (CLUSTER * CLUSTERS)
#define L1 (2 * CLUSTER)
#define L2 (3 * CLUSTER)
#define COPIED (1ull << 63)
#define COMPRESSED (1ull << 62)

static unsigned char image[SIZE];

static void put32(size_t at, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        image[at + (size_t)i] = (unsigned char)(v >> (24 - 8 * i));
}

static void put64(size_t at, uint64_t v)
{
    put32(at, (uint32_t)(v >> 32));
    put32(at + 4, (uint32_t)v);
}

static void make_image(void)
{
    memset(image, 0, sizeof image);
    put32(0, FDL_QCOW2_MAGIC);
    put32(4, 3);
    put32(20, 9);           /* cluster bits */
    put64(24, 8 * CLUSTER); /* virtual size */
    put32(36, 1);           /* L1 entries */
    put64(40, L1);
    put64(48, CLUSTER); /* refcount table */
    put32(56, 1);
    put32(96, 4);
    put32(100, 112);
    put64(L1, L2 | COPIED);
    put64(L2 + 0, 4 * CLUSTER | COPIED);
    put64(L2 + 8, 5 * CLUSTER | COPIED); /* neighbours on both sides: one run */
    put64(L2 + 24, 7 * CLUSTER | COPIED);
}

static struct fdl_err err;

static int check_sized(size_t size, const struct fdl_qcow2_policy *policy,
                       struct fdl_qcow2 **out)
{
    struct fdl_qcow2 *img = NULL;
    uint64_t off, len;
    size_t need;
    int rc = fdl_qcow2_open(&img, image, size, size, policy, &need, &err);

    if (rc == FDL_OK)
        assert(img && need == 0);
    while (rc == FDL_OK && fdl_qcow2_need(img, 0, &off, &len)) {
        assert(off + len <= size);
        rc = fdl_qcow2_feed(img, off, image + off, (size_t)len, &err);
    }
    if (rc == FDL_OK && out)
        *out = img;
    else
        fdl_qcow2_free(img);
    return rc;
}

static int check(void)
{
    return check_sized(SIZE, NULL, NULL);
}

/* One change to the honest image, and the code it must have. */
#define REFUSED(want, change)                                                          \
    do {                                                                               \
        make_image();                                                                  \
        change;                                                                        \
        int rc_ = check();                                                             \
        if (rc_ != (want))                                                             \
            fprintf(stderr, "%s: %d %s\n", #change, rc_, err.what);                    \
        assert(rc_ == (want) && err.code == (want) && err.what[0]);                    \
    } while (0)

static void an_honest_image_is_mapped(void)
{
    struct fdl_qcow2 *img;
    struct fdl_qcow2_entry e;
    uint64_t off, len;

    make_image();
    assert(check_sized(SIZE, NULL, &img) == FDL_OK);
    assert(fdl_qcow2_ready(img));
    assert(fdl_qcow2_plain_count(img) == 2 && fdl_qcow2_compressed_count(img) == 0);
    fdl_qcow2_plain(img, 0, &e);
    assert(e.host == 4 * CLUSTER && e.guest == 0 && e.len == 2 * CLUSTER);
    fdl_qcow2_plain(img, 1, &e);
    assert(e.host == 7 * CLUSTER && e.guest == 3 * CLUSTER && e.len == CLUSTER);
    assert(fdl_qcow2_zero_run(img, 0, &off, &len) && off == 2 * CLUSTER &&
           len == CLUSTER);
    assert(fdl_qcow2_zero_run(img, 1, &off, &len));
    assert(off == 4 * CLUSTER && len == 4 * CLUSTER);
    assert(!fdl_qcow2_zero_run(img, 2, &off, &len));
    assert(fdl_qcow2_next_extent(img, 0, &off, &len));
    assert(off == 4 * CLUSTER && len == 4 * CLUSTER);
    assert(!fdl_qcow2_next_extent(img, off + len, &off, &len));
    assert(fdl_qcow2_get_info(img)->needed_end == 8 * CLUSTER);
    assert(fdl_qcow2_get_info(img)->tables_end == 4 * CLUSTER);
    fdl_qcow2_free(img);
}

static void i01_backing_files_are_refused(void)
{
    REFUSED(FDL_E_UNSAFE_IMAGE, (put64(8, 200), put32(16, 11)));
    REFUSED(FDL_E_UNSAFE_IMAGE, put64(8, 200));
    REFUSED(FDL_E_UNSAFE_IMAGE, put32(16, 5));
}

static void i02_external_data_files_are_refused(void)
{
    REFUSED(FDL_E_UNSAFE_IMAGE, put64(72, 4));
    REFUSED(FDL_E_UNSAFE_IMAGE, put64(88, 2));
    REFUSED(FDL_E_UNSAFE_IMAGE, (put32(112, 0x44415441), put32(116, 8)));
}

static void i03_unknown_features_and_versions_are_refused(void)
{
    for (int bit = 5; bit < 64; bit++)
        REFUSED(FDL_E_FORMAT, put64(72, 1ull << bit));
    REFUSED(FDL_E_FORMAT, put64(72, 2));
    REFUSED(FDL_E_FORMAT, put64(72, 8)); /* zstd bit without its type */
    REFUSED(FDL_E_FORMAT, image[104] = 1);
    REFUSED(FDL_E_FORMAT, (put64(72, 8), image[104] = 2));
    static const uint32_t versions[] = {0, 1, 4, 1u << 31};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++)
        REFUSED(FDL_E_FORMAT, put32(4, versions[i]));
    static const uint32_t lengths[] = {0, 96, 105, 520, 1u << 31};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        REFUSED(FDL_E_FORMAT, put32(100, lengths[i]));
    REFUSED(FDL_E_FORMAT, (put32(112, 77), put32(116, 500)));
}

static void i04_impossible_geometry_is_refused(void)
{
    static const uint32_t bits[] = {0, 8, 22, 63, 1u << 31};
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++)
        REFUSED(FDL_E_FORMAT, put32(20, bits[i]));
    REFUSED(FDL_E_FORMAT, put32(96, 7));
    REFUSED(FDL_E_FORMAT, put64(24, 0));
    REFUSED(FDL_E_FORMAT, put64(24, 8 * CLUSTER + 1));
    REFUSED(FDL_E_LIMIT, put64(24, 1ull << 63));
    REFUSED(FDL_E_LIMIT, put64(24, 1ull << 60));
    const struct fdl_qcow2_policy policy = {.max_virtual_size = 8 * CLUSTER - 1};
    make_image();
    assert(check_sized(SIZE, &policy, NULL) == FDL_E_LIMIT);
}

static void i05_an_l1_table_that_lies_is_refused(void)
{
    REFUSED(FDL_E_FORMAT, put64(40, SIZE));
    REFUSED(FDL_E_FORMAT, put64(40, UINT64_MAX - 511));
    REFUSED(FDL_E_FORMAT, put64(40, L1 + 8));
    REFUSED(FDL_E_FORMAT, put64(40, 0));
    REFUSED(FDL_E_FORMAT, put32(36, 0));
    REFUSED(FDL_E_FORMAT, put64(24, 65 * CLUSTER)); /* two tables needed, one there */
    REFUSED(FDL_E_FORMAT, put32(36, (33u << 20) / 8));
}

static void i06_an_l2_table_that_lies_is_refused(void)
{
    REFUSED(FDL_E_FORMAT, put64(L1, SIZE | COPIED));
    REFUSED(FDL_E_FORMAT, put64(L1, (L2 + 512 * 1000000000ull) | COPIED));
    REFUSED(FDL_E_FORMAT, put64(L1, L2 + 1));
    REFUSED(FDL_E_FORMAT, put64(L1, L2 | 1ull << 56));
    REFUSED(FDL_E_FORMAT, put64(L1, L1 | COPIED));
    REFUSED(FDL_E_FORMAT, put64(L1, 1ull << 62));
    REFUSED(FDL_E_FORMAT, put64(L2, L2 | COPIED));
    REFUSED(FDL_E_FORMAT, put64(L2, L1 | COPIED));
    REFUSED(FDL_E_FORMAT, put64(L2, COPIED)); /* the header as data */
    REFUSED(FDL_E_FORMAT,
            (put64(24, 128 * CLUSTER), put32(36, 2), put64(L1 + 8, L2 | COPIED)));
}

static void i07_data_outside_the_file_is_refused(void)
{
    REFUSED(FDL_E_FORMAT, put64(L2, SIZE | COPIED));
    REFUSED(FDL_E_FORMAT, put64(L2, (1ull << 55) | COPIED));
    REFUSED(FDL_E_FORMAT, put64(L2, 4 * CLUSTER | 2));
    REFUSED(FDL_E_FORMAT, put64(L2, 4 * CLUSTER | 1ull << 56));
    REFUSED(FDL_E_FORMAT, put64(L2 + 8, 4 * CLUSTER | COPIED)); /* used twice */
}

static void i07_a_short_last_cluster_ends_in_zeros(void)
{
    struct fdl_qcow2 *img;
    struct fdl_qcow2_entry e;
    uint64_t off = 0, len = 0;
    size_t i;

    make_image();
    assert(check_sized(7 * CLUSTER + 100, NULL, &img) == FDL_OK);
    fdl_qcow2_plain(img, 1, &e);
    assert(e.len == 100);
    for (i = 0; fdl_qcow2_zero_run(img, i, &off, &len); i++)
        ;
    assert(i == 3 && off == 3 * CLUSTER + 100 && len == CLUSTER - 100);
    fdl_qcow2_free(img);
    assert(check_sized(7 * CLUSTER, NULL, &img) == FDL_E_FORMAT);
}

static void i08_compressed_clusters_stay_in_the_file(void)
{
    struct fdl_qcow2 *img;
    struct fdl_qcow2_entry e;

    /* Bits 0…60 are the offset, bit 61 one more sector. */
    REFUSED(FDL_E_FORMAT, put64(L2, COMPRESSED | SIZE));
    REFUSED(FDL_E_FORMAT, put64(L2, COMPRESSED | COPIED | 8 * CLUSTER));
    REFUSED(FDL_E_FORMAT, put64(L2, COMPRESSED | 100));
    REFUSED(FDL_E_FORMAT, put64(L2, COMPRESSED | (L1 + 4)));
    REFUSED(FDL_E_FORMAT, put64(L2, COMPRESSED | (L2 + 8)));
    make_image();
    put64(L2, COMPRESSED | 1ull << 61 | (SIZE - 600));
    assert(check_sized(SIZE, NULL, &img) == FDL_OK);
    fdl_qcow2_compressed(img, 0, &e);
    assert(e.host == SIZE - 600 && e.host_len == 600 && e.guest == 0 &&
           e.len == CLUSTER);
    fdl_qcow2_free(img);
}

static void i09_extended_l2_needs_large_clusters(void)
{
    REFUSED(FDL_E_FORMAT, put64(72, 16));
    REFUSED(FDL_E_FORMAT, (put64(72, 16), put32(20, 13)));
}

static void i10_snapshots_need_permission(void)
{
    const struct fdl_qcow2_policy allow = {.allow_snapshots = true};

    REFUSED(FDL_E_FORMAT, (put32(60, 1), put64(64, 8 * CLUSTER)));
    REFUSED(FDL_E_FORMAT, (put32(60, 65535), put64(64, 8 * CLUSTER)));
    REFUSED(FDL_E_FORMAT, (put32(60, 1u << 31), put64(64, 8 * CLUSTER)));
    make_image();
    put32(60, 1);
    put64(64, 8 * CLUSTER);
    assert(check_sized(SIZE, &allow, NULL) == FDL_OK);
    put64(64, 100 * CLUSTER);
    assert(check_sized(SIZE, &allow, NULL) == FDL_E_FORMAT);
}

static void i11_encryption_is_refused(void)
{
    REFUSED(FDL_E_UNSAFE_IMAGE, put32(32, 1));
    REFUSED(FDL_E_UNSAFE_IMAGE, put32(32, 2));
    REFUSED(FDL_E_UNSAFE_IMAGE, (put32(112, 0x0537be77), put32(116, 16)));
}

static void zero_clusters_need_version_3(void)
{
    make_image();
    put64(L2, 4 * CLUSTER | COPIED | 1);
    assert(check() == FDL_OK);
    put32(4, 2);
    assert(check() == FDL_E_FORMAT);
}

static void a_dirty_image_can_be_read(void)
{
    struct fdl_qcow2 *img;

    make_image();
    put64(72, 1);
    assert(check_sized(SIZE, NULL, &img) == FDL_OK && fdl_qcow2_get_info(img)->dirty);
    fdl_qcow2_free(img);
}

static void the_map_has_a_memory_limit(void)
{
    const struct fdl_qcow2_policy policy = {.max_map_bytes = 16};

    make_image();
    assert(check_sized(SIZE, &policy, NULL) == FDL_E_LIMIT);
}

static void a_short_head_says_how_much_it_wants(void)
{
    struct fdl_qcow2 *img;
    size_t need;

    make_image();
    for (size_t len = 0; len < 120; len++) {
        assert(fdl_qcow2_open(&img, image, len, SIZE, NULL, &need, &err) == FDL_OK);
        assert(!img && need > len && need <= 120);
    }
    assert(fdl_qcow2_open(&img, image, 60, 60, NULL, &need, &err) == FDL_E_FORMAT ||
           !img);
    image[0] = 'X';
    assert(fdl_qcow2_open(&img, image, 4, SIZE, NULL, &need, &err) == FDL_E_FORMAT);
}

static void whole_blocks_may_be_fed_in_any_order(void)
{
    struct fdl_qcow2 *img;
    size_t need;

    make_image();
    assert(fdl_qcow2_open(&img, image, SIZE, FDL_QCOW2_SIZE_UNKNOWN, NULL, &need,
                          &err) == 0);
    assert(fdl_qcow2_feed(img, L2, image + L2, CLUSTER, &err) ==
           FDL_OK); /* too early */
    assert(!fdl_qcow2_ready(img));
    assert(fdl_qcow2_feed(img, 0, image, L2, &err) == FDL_OK);
    assert(fdl_qcow2_feed(img, L2 + 100, image + L2 + 100, 412, &err) == FDL_OK);
    assert(!fdl_qcow2_ready(img));
    uint64_t off, len;
    assert(fdl_qcow2_need(img, 0, &off, &len) && off == L2 && len == 104);
    assert(fdl_qcow2_feed(img, L2, image + L2, 104, &err) == FDL_OK);
    assert(fdl_qcow2_ready(img));
    assert(fdl_qcow2_set_file_size(img, 7 * CLUSTER, &err) == FDL_E_FORMAT);
    assert(fdl_qcow2_set_file_size(img, 7 * CLUSTER + 1, &err) == FDL_OK);
    fdl_qcow2_free(img);
}

int main(void)
{
    an_honest_image_is_mapped();
    i01_backing_files_are_refused();
    i02_external_data_files_are_refused();
    i03_unknown_features_and_versions_are_refused();
    i04_impossible_geometry_is_refused();
    i05_an_l1_table_that_lies_is_refused();
    i06_an_l2_table_that_lies_is_refused();
    i07_data_outside_the_file_is_refused();
    i07_a_short_last_cluster_ends_in_zeros();
    i08_compressed_clusters_stay_in_the_file();
    i09_extended_l2_needs_large_clusters();
    i10_snapshots_need_permission();
    i11_encryption_is_refused();
    zero_clusters_need_version_3();
    a_dirty_image_can_be_read();
    the_map_has_a_memory_limit();
    a_short_head_says_how_much_it_wants();
    whole_blocks_may_be_fed_in_any_order();
    return 0;
}
