/* SPDX-License-Identifier: Apache-2.0 */
/* source/nfs_url.h - parses an NFS URL (pure).
 *
 * nfs://server[:port]/export/path[?version=3|4&nfsport=N&mountport=N&uid=N&gid=N&export=DIR]
 */
#ifndef FDL_NFS_URL_H
#define FDL_NFS_URL_H

#include "base/err.h"

struct fdl_nfs_url {
    char *host;   /* OWNED: without brackets */
    char *path;   /* OWNED: decoded, absolute */
    char *export; /* OWNED; NULL: not given */
    int version;  /* 0: not given */
    int nfs_port; /* 0: not said */
    int mount_port;
    long uid, gid; /* -1: not given */
};

/* `out` is zeroed memory, and OWNED on success (fdl_nfs_url_clear). FDL_E_USAGE where
 * the URL is malformed or has an unknown parameter. */
int fdl_nfs_url_parse(const char *url, struct fdl_nfs_url *out, struct fdl_err *err);

void fdl_nfs_url_clear(struct fdl_nfs_url *url);

#endif
