/* SPDX-License-Identifier: Apache-2.0 */
/* decode/qcow2.h - DECODE: which bytes of a qcow2 file belong where on the guest's
 * disk.
 *
 * Pure: no I/O, every byte checked comes in through open() and feed(). The rules live
 * here and nowhere else: qemu's docs/interop/qcow2.txt, versions 2 and 3, and stricter
 * than it wherever readers could disagree or a table could lead outside the image.
 *
 *   open(head) -> need()/feed() until ready() -> extents, zero runs, entries
 *
 * Not thread-safe while it is fed; read-only and shareable once ready(). */
#ifndef FDL_QCOW2_H
#define FDL_QCOW2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define FDL_QCOW2_MAGIC 0x514649fbu
#define FDL_QCOW2_SIZE_UNKNOWN UINT64_MAX
/* Offsets beyond this are refused (FDL_E_LIMIT); it lets a cluster fit into 16 bytes.
 */
#define FDL_QCOW2_MAX_FILE (1ull << 49)

struct fdl_qcow2;

struct fdl_qcow2_policy {
    uint64_t max_virtual_size; /* 0 = no limit of ours */
    uint64_t max_map_bytes;    /* memory of tables and map; 0 = 1 GiB */
    bool allow_snapshots;      /* land the active state, ignore internal snapshots */
};

struct fdl_qcow2_info {
    unsigned version;      /* 2 or 3 */
    uint32_t cluster_size; /* bytes, 512 … 2 MiB */
    uint32_t unit; /* granule of the map: cluster, or subcluster (extended L2) */
    uint64_t virtual_size; /* bytes of the guest's disk, a multiple of 512 */
    uint64_t file_size;    /* FDL_QCOW2_SIZE_UNKNOWN until reported */
    bool zstd;             /* else zlib */
    bool extended_l2;
    bool dirty; /* refcounts may be stale: of no matter for reading */
    uint32_t snapshots;
    uint64_t l1_offset, l1_bytes;
    /* Valid once ready(): */
    uint64_t data_bytes;       /* guest bytes from plain clusters */
    uint64_t compressed_bytes; /* guest bytes from compressed clusters */
    uint64_t table_bytes;      /* of L1 and L2 */
    uint64_t tables_end;       /* offset after the last table: 0 until L1 is known */
    uint64_t first_data;       /* lowest offset of guest data, UINT64_MAX for none */
    uint64_t needed_end;       /* nothing beyond this offset is read */
};

/* Guest bytes [guest, guest + len) are at `host` (plain), or are decoded from the
 * `host_len` bytes at `host` and `pad` zeros, which stand for what is after the end of
 * the file (compressed, len = one cluster cut at the virtual size). */
struct fdl_qcow2_entry {
    uint64_t host, host_len, pad, guest, len;
};

/* Checks header and extensions in buf[0..len), the file's first bytes.
 *   buf    BORROWED during the call.
 *   *need  set to the bytes wanted when `len` is too short (*out stays NULL, result 0).
 *   *out   OWNED, free with fdl_qcow2_free().
 * Errors: FDL_E_FORMAT (malformed or unsupported), FDL_E_UNSAFE_IMAGE (backing file,
 * data file, encryption), FDL_E_LIMIT (virtual size, file size, map memory). */
int fdl_qcow2_open(struct fdl_qcow2 **out, const void *buf, size_t len,
                   uint64_t file_size, const struct fdl_qcow2_policy *policy,
                   size_t *need, struct fdl_err *err);

/* NULL is allowed. */
void fdl_qcow2_free(struct fdl_qcow2 *img);

const struct fdl_qcow2_info *fdl_qcow2_get_info(const struct fdl_qcow2 *img);

/* The first range of metadata at or after file offset `from` that is still needed: L1,
 * then every L2 table; ranges that touch are joined. False when there is none. */
bool fdl_qcow2_need(const struct fdl_qcow2 *img, uint64_t from, uint64_t *off,
                    uint64_t *len);

/* Takes what is needed out of buf[0..len) = file bytes at off, and checks it at once.
 * Anything else in it is ignored, so whole blocks may be fed, in any order, twice.
 * A table is taken in 64 parts: a part must be completely in buf. Errors as open(). */
int fdl_qcow2_feed(struct fdl_qcow2 *img, uint64_t off, const void *buf, size_t len,
                   struct fdl_err *err);

/* All tables are known and consistent: the map below may be used. */
bool fdl_qcow2_ready(const struct fdl_qcow2 *img);

/* Reports the size of a file whose size was unknown; once, after ready(). */
int fdl_qcow2_set_file_size(struct fdl_qcow2 *img, uint64_t size, struct fdl_err *err);

/* Plain runs and compressed clusters, each sorted by host offset. Plain runs never
 * overlap anything; compressed ones may share host bytes. len may be 0 for a run that
 * is entirely beyond the end of a short last cluster (see zero runs). */
size_t fdl_qcow2_plain_count(const struct fdl_qcow2 *img);
void fdl_qcow2_plain(const struct fdl_qcow2 *img, size_t i,
                     struct fdl_qcow2_entry *out);
size_t fdl_qcow2_compressed_count(const struct fdl_qcow2 *img);
void fdl_qcow2_compressed(const struct fdl_qcow2 *img, size_t i,
                          struct fdl_qcow2_entry *out);

/* Guest ranges that read as zeros: unallocated and zero clusters (coalesced, in guest
 * order), then what a short last cluster leaves out. False when i is too large. */
bool fdl_qcow2_zero_run(const struct fdl_qcow2 *img, size_t i, uint64_t *off,
                        uint64_t *len);

/* The first range of the file at or after `from` that some guest byte needs; gaps
 * below 64 KiB are not worth a request and are joined. */
bool fdl_qcow2_next_extent(const struct fdl_qcow2 *img, uint64_t from, uint64_t *off,
                           uint64_t *len);

#endif
