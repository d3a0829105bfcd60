/* SPDX-License-Identifier: Apache-2.0 */
/* test_nfs_url.c - an NFS URL says what it says, or is refused as a whole. */
#undef NDEBUG
#include "source/nfs_url.h"

#include <assert.h>
#include <string.h>

static void every_part_is_read(void)
{
    struct fdl_nfs_url url = {0};
    struct fdl_err err;

    assert(fdl_nfs_url_parse("nfs://[::1]:2050/srv/a%20b?version=3&mountport=700"
                             "&uid=0&gid=65534&export=%2Fsrv",
                             &url, &err) == FDL_OK);
    assert(strcmp(url.host, "::1") == 0 && strcmp(url.path, "/srv/a b") == 0);
    assert(strcmp(url.export, "/srv") == 0 && url.version == 3);
    assert(url.nfs_port == 2050 && url.mount_port == 700);
    assert(url.uid == 0 && url.gid == 65534);
    fdl_nfs_url_clear(&url);
    assert(fdl_nfs_url_parse("nfs://host/f", &url, &err) == FDL_OK);
    assert(!url.export && url.version == 0 && url.nfs_port == 0);
    assert(url.uid == -1 && url.gid == -1);
    fdl_nfs_url_clear(&url);
}

static void what_is_malformed_is_refused_and_leaves_nothing(void)
{
    static const char *const urls[] = {
        "nfs://host/f?version=2",       "nfs://host/f?version=",
        "nfs://host/f?uid=-1",          "nfs://host/f?nfsport=65536",
        "nfs://host/f?mountport=1x",    "nfs://host/f?unknown=1",
        "nfs://host/f?version",         "nfs://host/f?export=srv",
        "nfs://host:99999/f",           "not a url",
        "nfs://host/f?uid=99999999999", "nfs:///f%00?version=4",
    };
    struct fdl_err err;

    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        struct fdl_nfs_url url = {0};
        assert(fdl_nfs_url_parse(urls[i], &url, &err) == FDL_E_USAGE);
        assert(!url.host && !url.path && !url.export);
    }
}

int main(void)
{
    every_part_is_read();
    what_is_malformed_is_refused_and_leaves_nothing();
    return 0;
}
