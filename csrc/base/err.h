/* SPDX-License-Identifier: Apache-2.0 */
/* base/err.h - the one error struct. Any file may include it; it includes none.
 *
 * Codes are the negated exit codes of fastdl.errors, so that nothing has to be
 * translated on the way up. `what` is a static phrase of ours: never text that a
 * mirror sent, never a URL. */
#ifndef FDL_ERR_H
#define FDL_ERR_H

#include <stdint.h>

enum fdl_code {
    FDL_OK = 0,
    FDL_E_USAGE = -2,
    FDL_E_NET = -10,
    FDL_E_HTTP_STATUS = -11,
    FDL_E_HTTP_PROTOCOL = -12,
    FDL_E_ORIGIN_CHANGED = -13,
    FDL_E_TLS_TRUST = -14,
    FDL_E_POLICY = -15,
    FDL_E_METALINK = -20,
    FDL_E_INTEGRITY = -21,
    FDL_E_SIZE = -22,
    FDL_E_FORMAT = -23,
    FDL_E_UNSAFE_IMAGE = -24,
    FDL_E_LIMIT = -25,
    FDL_E_SINK_SPACE = -30,
    FDL_E_SINK_IO = -31,
    FDL_E_SINK_BUSY = -32,
    FDL_E_SINK_REFUSED = -33,
    FDL_E_TARGET_CHANGED = -41,
    FDL_E_INTERNAL = -74,
    FDL_E_CANCELLED = -130,
};

/* Why, for a caller that decides by more than the code: `what` is only for people. The
 * names are those of fastdl.errors.Reason, in its order. */
enum fdl_reason {
    FDL_REASON_NONE = 0,
    FDL_REASON_NEEDS_STAGING, /* a decoded image's tables come after its data */
    FDL_REASON_WRONG_PIECE,   /* the only mirror's: what was recorded stays good */
};

#define FDL_ERR_WHAT_MAX 120

struct fdl_err {
    int code; /* enum fdl_code */
    enum fdl_reason reason;
    int os_errno;          /* 0 where the kernel had no part in it */
    int http_status;       /* 0 where no response was involved */
    int mirror;            /* index of the mirror concerned, -1 for none */
    int64_t retry_after_s; /* the wait that the server requested, -1 for none */
    uint64_t offset;       /* byte offset concerned, UINT64_MAX for none */
    char what[FDL_ERR_WHAT_MAX];
};

#define FDL_NO_OFFSET UINT64_MAX

void fdl_err_clear(struct fdl_err *err);

/* Fills err (which may be NULL) and returns code, so that callers can write
 * `return fdl_fail(err, FDL_E_SIZE, off, "…")`. */
int fdl_fail(struct fdl_err *err, int code, uint64_t offset, const char *what);

/* The same with errno: ENOSPC, EDQUOT and EFBIG become SINK_SPACE where code is
 * SINK_IO. */
int fdl_fail_os(struct fdl_err *err, int code, int os_errno, uint64_t offset,
                const char *what);

/* Not enough memory for `what` ("a connection"): FDL_E_LIMIT, since somebody has to
 * give the process more of it. */
int fdl_nomem(struct fdl_err *err, const char *what);

#endif
