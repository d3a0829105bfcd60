/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void fdl_err_clear(struct fdl_err *err)
{
    if (!err)
        return;
    memset(err, 0, sizeof *err);
    err->mirror = -1;
    err->retry_after_s = -1;
    err->offset = FDL_NO_OFFSET;
}

int fdl_fail(struct fdl_err *err, int code, uint64_t offset, const char *what)
{
    if (err) {
        fdl_err_clear(err);
        err->code = code;
        err->offset = offset;
        snprintf(err->what, sizeof err->what, "%s", what);
    }
    return code;
}

int fdl_fail_os(struct fdl_err *err, int code, int os_errno, uint64_t offset,
                const char *what)
{
    if (code == FDL_E_SINK_IO &&
        (os_errno == ENOSPC || os_errno == EDQUOT || os_errno == EFBIG))
        code = FDL_E_SINK_SPACE;
    fdl_fail(err, code, offset, what);
    if (err)
        err->os_errno = os_errno;
    return code;
}

int fdl_nomem(struct fdl_err *err, const char *what)
{
    fdl_fail(err, FDL_E_LIMIT, FDL_NO_OFFSET, "");
    if (err)
        snprintf(err->what, sizeof err->what, "not enough memory for %s", what);
    return FDL_E_LIMIT;
}
