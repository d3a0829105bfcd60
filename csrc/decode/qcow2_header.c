/* SPDX-License-Identifier: Apache-2.0 */
/* Header and extensions of a qcow2 image. The rules are those of qemu's
 * docs/interop/qcow2.txt; comments name where we are stricter. */
#include "decode/qcow2_priv.h"

#include <stdlib.h>
#include <string.h>

#define HEADER_V2 72
#define HEADER_V3 104
#define MAX_L1_BYTES (32u << 20)
#define MAX_REFTABLE_BYTES (8u << 20)
#define MAX_SNAPSHOTS 65536
#define DEFAULT_MAP_BYTES (1ull << 30)

#define INCOMPAT_DIRTY 1u
#define INCOMPAT_CORRUPT 2u
#define INCOMPAT_DATA_FILE 4u
#define INCOMPAT_COMPRESSION 8u
#define INCOMPAT_EXTENDED_L2 16u
#define INCOMPAT_KNOWN 31u
#define AUTOCLEAR_RAW_EXTERNAL 2u

#define EXT_END 0u
#define EXT_DATA_FILE 0x44415441u
#define EXT_LUKS 0x0537be77u

static int unsafe(struct fdl_err *err, uint64_t off, const char *what)
{
    return fdl_fail(err, FDL_E_UNSAFE_IMAGE, off, what);
}

static int check_features(struct fdl_qcow2 *img, const unsigned char *h,
                          uint32_t header_length, struct fdl_err *err)
{
    uint64_t incompat = fdl_be64(h + 72);
    uint64_t autoclear = fdl_be64(h + 88);
    unsigned type = header_length > HEADER_V3 ? h[104] : 0;

    if (incompat & INCOMPAT_DATA_FILE)
        return unsafe(err, 72, "qcow2: an external data file is refused");
    if (autoclear & AUTOCLEAR_RAW_EXTERNAL)
        return unsafe(err, 88, "qcow2: the raw external data bit is set");
    if (incompat & ~(uint64_t)INCOMPAT_KNOWN)
        return fdl_qcow2_bad(err, 72, "qcow2: unknown incompatible feature");
    if (incompat & INCOMPAT_CORRUPT)
        return fdl_qcow2_bad(err, 72, "qcow2: the image is marked corrupt");
    if (type > 1)
        return fdl_qcow2_bad(err, 104, "qcow2: unknown compression type");
    if ((type != 0) != ((incompat & INCOMPAT_COMPRESSION) != 0))
        return fdl_qcow2_bad(err, 104,
                             "qcow2: compression type and feature bit disagree");
    img->info.dirty = incompat & INCOMPAT_DIRTY;
    img->info.extended_l2 = incompat & INCOMPAT_EXTENDED_L2;
    img->info.zstd = type == 1;
    return FDL_OK;
}

/* Walks the header extensions. Sets *need where the walk leaves the buffer. */
static int check_extensions(const unsigned char *h, size_t len, uint64_t at,
                            uint64_t end, size_t *need, struct fdl_err *err)
{
    while (at < end) {
        if (end - at < 8)
            return fdl_qcow2_bad(err, at,
                                 "qcow2: header extension leaves the first cluster");
        if (at + 8 > len) {
            *need = (size_t)(at + 8);
            return FDL_OK;
        }
        uint32_t type = fdl_be32(h + at), size = fdl_be32(h + at + 4);
        if (size > end - at - 8)
            return fdl_qcow2_bad(err, at,
                                 "qcow2: header extension leaves the first cluster");
        if (type == EXT_END)
            return FDL_OK;
        if (type == EXT_DATA_FILE)
            return unsafe(err, at, "qcow2: an external data file is refused");
        if (type == EXT_LUKS)
            return unsafe(err, at, "qcow2: encrypted images are refused");
        at += 8 + (((uint64_t)size + 7) & ~7ull);
    }
    return FDL_OK;
}

/* Refcounts are not needed for reading; what qemu refuses at open we refuse too. */
static int check_refcounts(const struct fdl_qcow2 *img, const unsigned char *h,
                           struct fdl_err *err)
{
    uint64_t off = fdl_be64(h + 48);
    uint64_t bytes = (uint64_t)fdl_be32(h + 56) << img->cluster_bits;

    if (img->info.version == 3 && fdl_be32(h + 96) > 6)
        return fdl_qcow2_bad(err, 96, "qcow2: refcount order above 6");
    if (bytes == 0 || bytes > MAX_REFTABLE_BYTES)
        return fdl_qcow2_bad(err, 56, "qcow2: refcount table of impossible size");
    if (off == 0 || off % img->info.cluster_size != 0 || !fdl_qcow2_inside(img, off, 8))
        return fdl_qcow2_bad(err, 48,
                             "qcow2: refcount table misaligned or outside the file");
    return FDL_OK;
}

static int check_l1(struct fdl_qcow2 *img, const unsigned char *h, struct fdl_err *err)
{
    uint32_t entries = fdl_be32(h + 36);
    uint64_t off = fdl_be64(h + 40), bytes = (uint64_t)entries * 8;
    uint64_t l2_span = (uint64_t)img->l2_entries << img->cluster_bits;

    img->l1_needed = fdl_ceil_div(img->info.virtual_size, l2_span);
    if (bytes > MAX_L1_BYTES)
        return fdl_qcow2_bad(err, 36, "qcow2: L1 table larger than 32 MiB");
    if (entries < img->l1_needed)
        return fdl_qcow2_bad(err, 36, "qcow2: L1 table too small for the virtual size");
    if (off % img->info.cluster_size != 0)
        return fdl_qcow2_bad(err, 40, "qcow2: L1 table misaligned");
    if (off < img->info.cluster_size)
        return fdl_qcow2_bad(err, 40, "qcow2: L1 table overlaps the header");
    if (!fdl_qcow2_inside(img, off, bytes))
        return fdl_qcow2_bad(err, 40, "qcow2: L1 table outside the file");
    img->info.l1_offset = off;
    img->info.l1_bytes = bytes;
    return FDL_OK;
}

static int check_snapshots(struct fdl_qcow2 *img, const unsigned char *h,
                           const struct fdl_qcow2_policy *policy, struct fdl_err *err)
{
    uint32_t n = fdl_be32(h + 60);

    img->info.snapshots = n;
    if (fdl_be64(h + 64) % img->info.cluster_size != 0)
        return fdl_qcow2_bad(err, 64, "qcow2: snapshot table misaligned");
    if (n == 0)
        return FDL_OK;
    if (n > MAX_SNAPSHOTS)
        return fdl_qcow2_bad(err, 60, "qcow2: impossible number of snapshots");
    if (!fdl_qcow2_inside(img, fdl_be64(h + 64), (uint64_t)n * 40))
        return fdl_qcow2_bad(err, 64, "qcow2: snapshot table outside the file");
    if (!policy->allow_snapshots)
        return fdl_qcow2_bad(err, 60,
                             "qcow2: internal snapshots are refused in templates");
    return FDL_OK;
}

static int check_geometry(struct fdl_qcow2 *img, const unsigned char *h,
                          const struct fdl_qcow2_policy *policy, struct fdl_err *err)
{
    uint32_t bits = fdl_be32(h + 20);
    uint64_t size = fdl_be64(h + 24);

    if (bits < 9 || bits > 21)
        return fdl_qcow2_bad(err, 20, "qcow2: cluster size outside 512 bytes to 2 MiB");
    if (img->info.extended_l2 && bits < 14)
        return fdl_qcow2_bad(err, 20,
                             "qcow2: extended L2 needs clusters of 16 KiB or more");
    if (size == 0)
        return fdl_qcow2_bad(err, 24, "qcow2: virtual size is zero");
    if (size > INT64_MAX ||
        (policy->max_virtual_size && size > policy->max_virtual_size))
        return fdl_fail(err, FDL_E_LIMIT, 24, "qcow2: virtual size above the limit");
    /* qemu rounds down, others up: the last bytes are ambiguous. */
    if (size % 512 != 0)
        return fdl_qcow2_bad(err, 24,
                             "qcow2: virtual size is no multiple of 512 bytes");
    img->cluster_bits = bits;
    img->unit_bits = img->info.extended_l2 ? bits - 5 : bits;
    img->units_per_entry = img->info.extended_l2 ? 32 : 1;
    img->l2_entries = 1u << (bits - (img->info.extended_l2 ? 4 : 3));
    img->info.cluster_size = 1u << bits;
    img->info.unit = 1u << img->unit_bits;
    img->info.virtual_size = size;
    img->units = fdl_ceil_div(size, img->info.unit);
    if (img->units > UINT32_MAX)
        return fdl_fail(err, FDL_E_LIMIT, 24, "qcow2: more than 2^32 clusters");
    return FDL_OK;
}

/* The size of a part: at most 64 of them, each a whole number of `entry` bytes. */
static uint64_t part_size(uint64_t bytes, uint64_t entry)
{
    return fdl_ceil_div(fdl_ceil_div(bytes, entry), FDL_QCOW2_PARTS) * entry;
}

static int prepare_l1(struct fdl_qcow2 *img, struct fdl_err *err)
{
    uint64_t bytes = img->l1_needed * 8;

    img->l1_part = part_size(bytes, 8);
    img->l2_part = part_size(img->info.cluster_size, img->info.extended_l2 ? 16 : 8);
    img->l1_table.off = img->info.l1_offset;
    img->l1 = malloc((size_t)bytes);
    if (!img->l1)
        return fdl_nomem(err, "the qcow2 tables");
    return FDL_OK;
}

static int check_header(struct fdl_qcow2 *img, const unsigned char *h, size_t len,
                        const struct fdl_qcow2_policy *policy, size_t *need,
                        struct fdl_err *err)
{
    uint32_t header_length = img->info.version == 2 ? HEADER_V2 : fdl_be32(h + 100);
    int rc;

    if (fdl_be64(h + 8) != 0 || fdl_be32(h + 16) != 0)
        return unsafe(err, 8, "qcow2: a backing file is refused");
    if (fdl_be32(h + 32) != 0)
        return unsafe(err, 32, "qcow2: encrypted images are refused");
    if (img->info.version == 3) {
        if (header_length < HEADER_V3 || header_length % 8 != 0 || header_length > 4096)
            return fdl_qcow2_bad(err, 100, "qcow2: impossible header length");
        if (header_length > len) {
            *need = header_length;
            return FDL_OK;
        }
        if ((rc = check_features(img, h, header_length, err)) < 0)
            return rc;
    }
    if ((rc = check_geometry(img, h, policy, err)) < 0)
        return rc;
    if (header_length > img->info.cluster_size)
        return fdl_qcow2_bad(err, 100, "qcow2: header longer than a cluster");
    uint64_t end = img->info.cluster_size;
    if ((rc = check_extensions(h, len, header_length, end, need, err)) < 0 || *need)
        return rc;
    if ((rc = check_refcounts(img, h, err)) < 0 || (rc = check_l1(img, h, err)) < 0)
        return rc;
    if ((rc = check_snapshots(img, h, policy, err)) < 0)
        return rc;
    return prepare_l1(img, err);
}

int fdl_qcow2_open(struct fdl_qcow2 **out, const void *buf, size_t len,
                   uint64_t file_size, const struct fdl_qcow2_policy *policy,
                   size_t *need, struct fdl_err *err)
{
    const unsigned char *h = buf;
    const struct fdl_qcow2_policy defaults = {0};
    struct fdl_qcow2 *img;

    *out = NULL;
    *need = 0;
    if (!policy)
        policy = &defaults;
    if (len >= 4 && fdl_be32(h) != FDL_QCOW2_MAGIC)
        return fdl_qcow2_bad(err, 0, "qcow2: no qcow2 magic");
    if (len < 8) {
        *need = HEADER_V3;
        return file_size < HEADER_V2 ? fdl_qcow2_bad(err, 0, "qcow2: header cut off")
                                     : FDL_OK;
    }
    uint32_t version = fdl_be32(h + 4);
    if (version != 2 && version != 3)
        return fdl_qcow2_bad(err, 4, "qcow2: only versions 2 and 3 are known");
    if (len < (version == 2 ? HEADER_V2 : HEADER_V3)) {
        *need = version == 2 ? HEADER_V2 : HEADER_V3;
        return file_size < *need ? fdl_qcow2_bad(err, 0, "qcow2: header cut off")
                                 : FDL_OK;
    }
    if (file_size != FDL_QCOW2_SIZE_UNKNOWN && file_size > FDL_QCOW2_MAX_FILE)
        return fdl_fail(err, FDL_E_LIMIT, FDL_NO_OFFSET, "qcow2: file above 512 TiB");

    img = calloc(1, sizeof *img);
    if (!img)
        return fdl_nomem(err, "a qcow2 image");
    img->info.version = version;
    img->info.file_size = file_size;
    img->limit = file_size == FDL_QCOW2_SIZE_UNKNOWN ? FDL_QCOW2_MAX_FILE : file_size;
    img->max_map_bytes =
        policy->max_map_bytes ? policy->max_map_bytes : DEFAULT_MAP_BYTES;
    int rc = check_header(img, h, len, policy, need, err);
    if (rc == FDL_OK && *need > file_size)
        rc = fdl_qcow2_bad(err, 0, "qcow2: header cut off");
    if (rc < 0 || *need > 0) {
        fdl_qcow2_free(img);
        return rc;
    }
    *out = img;
    return FDL_OK;
}
