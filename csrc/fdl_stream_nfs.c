/* SPDX-License-Identifier: Apache-2.0 */
/* fdl_stream_nfs.c - ranges of a file on an NFS server, read in user space: no mount. */
#include "fdl_stream.h"

struct fdl_stream *fdl_stream_nfs_new(struct fdl_mirror *mirror, const struct fdl_net *net,
                                      struct fdl_wake *wake, struct fdl_conn_times *times)
{
    (void)mirror, (void)net, (void)wake, (void)times;
    return NULL;
}
