/* SPDX-License-Identifier: Apache-2.0 */
/* sink/nbd.h - LAND: one export of an NBD server, over one connection or several.
 *
 * Safe from several threads at once: each call uses its own connection while it
 * lasts. Every wait is bounded: a request that takes longer than the limit closes its
 * connection, so that nothing writes into the caller's memory later.
 *
 * Built without libnbd, fdl_nbd_open() fails with FDL_E_USAGE. */
#ifndef FDL_NBD_H
#define FDL_NBD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define FDL_NBD_CONNS_MAX 8

struct fdl_nbd;

/* Connects. Several connections only if the server guarantees that a flush on one of
 * them covers all (NBD_FLAG_CAN_MULTI_CONN). `uri` (BORROWED for the call): the NBD URI
 * standard's nbd, nbds, nbd+unix, nbds+unix. `limit_ms`: how long one request may take;
 * a flush may take ten times as long. *out is OWNED.
 *
 * Errors: FDL_E_USAGE (malformed URI, no libnbd), FDL_E_SINK_IO (no server there),
 * FDL_E_SINK_REFUSED (no such export, or the server refuses a session). */
int fdl_nbd_open(struct fdl_nbd **out, const char *uri, int max_conns, int limit_ms,
                 struct fdl_err *err);

uint64_t fdl_nbd_size(const struct fdl_nbd *nbd);
bool fdl_nbd_read_only(const struct fdl_nbd *nbd);
int fdl_nbd_conns(const struct fdl_nbd *nbd);
/* Bytes that offset and length of a request are multiples of; 1 where any will do. The
 * calls below take ranges of any kind: ragged ends are read, merged and written. */
size_t fdl_nbd_min_block(const struct fdl_nbd *nbd);

/* All of [off, off + len) or an error: FDL_E_SINK_SPACE, FDL_E_SINK_IO. */
int fdl_nbd_pread(struct fdl_nbd *nbd, void *buf, size_t len, uint64_t off,
                  struct fdl_err *err);
int fdl_nbd_pwrite(struct fdl_nbd *nbd, const void *buf, size_t len, uint64_t off,
                   struct fdl_err *err);

/* [off, off + len) reads as zeros afterwards. *commanded: bytes that a zeroing command
 * covered, the others were written. */
int fdl_nbd_zero(struct fdl_nbd *nbd, uint64_t off, uint64_t len, uint64_t *commanded,
                 struct fdl_err *err);

/* Everything that returned before is durable. */
int fdl_nbd_flush(struct fdl_nbd *nbd, struct fdl_err *err);

/* From any thread: requests under way and later ones get two seconds each. */
void fdl_nbd_hurry(struct fdl_nbd *nbd);

/* Socket of connection i below fdl_nbd_conns(), -1 where it is lost. */
int fdl_nbd_fd(struct fdl_nbd *nbd, int i);

/* NULL is allowed. No request may be under way. */
void fdl_nbd_close(struct fdl_nbd *nbd);

/* As fdl_nbd_close(), but nothing is sent to the server: a fork of this process speaks
 * on the same connections. */
void fdl_nbd_drop(struct fdl_nbd *nbd);

#endif
