/* SPDX-License-Identifier: Apache-2.0 */
/* test_err.c - want of memory is a limit of the machine, never a bug; full targets have
 * a class of their own. */
#undef NDEBUG
#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static void want_of_memory_is_a_limit(void)
{
    struct fdl_err err;

    assert(fdl_nomem(&err, "a connection") == FDL_E_LIMIT);
    assert(err.code == FDL_E_LIMIT && err.offset == FDL_NO_OFFSET && err.mirror == -1);
    assert(strcmp(err.what, "not enough memory for a connection") == 0);
    assert(fdl_nomem(NULL, "a connection") == FDL_E_LIMIT);
}

static void a_full_target_is_no_broken_one(void)
{
    struct fdl_err err;

    assert(fdl_fail_os(&err, FDL_E_SINK_IO, ENOSPC, 7, "x") == FDL_E_SINK_SPACE);
    assert(fdl_fail_os(&err, FDL_E_SINK_IO, EIO, 7, "x") == FDL_E_SINK_IO);
    assert(fdl_fail_os(&err, FDL_E_NET, ENOSPC, 7, "x") == FDL_E_NET);
    assert(err.os_errno == ENOSPC && err.offset == 7);
}

int main(void)
{
    want_of_memory_is_a_limit();
    a_full_target_is_no_broken_one();
    return 0;
}
