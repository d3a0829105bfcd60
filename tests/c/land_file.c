/* SPDX-License-Identifier: Apache-2.0 */
/* land_file.c - a driver for differential tests: lands local files as told on stdin.
 *
 *   qcow2 IN OUT BLOCK FLAGS    FLAGS: any of u (file size unknown), d (detect zeros),
 *                               s (leave out what no guest byte needs), t (1 thread),
 *                               b (OUT is new and reads as zeros), o (O_DIRECT, 4 KiB),
 *                               - (none)
 *   stream KIND IN OUT BLOCK    KIND: gz bz2 xz zst zip; a qcow2 inside is read as one
 *
 * One answer per line: "CODE VIRTUAL_SIZE WHAT". OUT exists and keeps what lies behind
 * the virtual size. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "decode/land_qcow2.h"
#include "decode/land_stream.h"

struct source {
    int fd;
    uint64_t size;
};

static int open_source(struct source *s, const char *path)
{
    struct stat st;

    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0 || fstat(s->fd, &st) < 0)
        return FDL_E_USAGE;
    s->size = (uint64_t)st.st_size;
    return FDL_OK;
}

static size_t read_at(const struct source *s, void *buf, size_t len, uint64_t off)
{
    ssize_t n = pread(s->fd, buf, len, (off_t)off);
    return n < 0 ? 0 : (size_t)n;
}

/* Feeds header and tables as an engine would: exactly what is asked for, once. */
static int read_tables(struct fdl_qcow2 **img, const struct source *s, bool unknown,
                       struct fdl_err *err)
{
    unsigned char *buf = malloc(4 << 20);
    uint64_t off, len;
    size_t n = read_at(s, buf, 512, 0), need;
    int rc;

    do {
        rc = fdl_qcow2_open(img, buf, n, unknown ? FDL_QCOW2_SIZE_UNKNOWN : s->size,
                            NULL, &need, err);
        if (rc == FDL_OK && need && read_at(s, buf, need, 0) < need)
            rc = fdl_fail(err, FDL_E_FORMAT, 0, "header cut off");
        n = need;
    } while (rc == FDL_OK && need);
    while (rc == FDL_OK && fdl_qcow2_need(*img, 0, &off, &len)) {
        if (len > 4 << 20)
            len = 4 << 20;
        if (read_at(s, buf, (size_t)len, off) < len)
            rc = fdl_fail(err, FDL_E_FORMAT, off, "tables cut off");
        else
            rc = fdl_qcow2_feed(*img, off, buf, (size_t)len, err);
    }
    free(buf);
    return rc;
}

/* Blocks are taken from a small pool, as the engine's are: a leaked one would hang. */
static int push_range(struct fdl_lander *lander, struct fdl_pool *pool,
                      const struct source *s, uint64_t off, uint64_t end,
                      struct fdl_err *err)
{
    size_t block = fdl_pool_block_size(pool);

    while (off < end) {
        struct fdl_buf *buf;
        while (!(buf = fdl_pool_get(pool)))
            usleep(50);
        buf->off = off;
        buf->len =
            read_at(s, buf->data, end - off < block ? (size_t)(end - off) : block, off);
        off += buf->len;
        int rc = lander->ops->push(lander, buf, err);
        fdl_buf_unref(buf);
        if (rc < 0)
            return rc;
    }
    return FDL_OK;
}

static int push_needed(struct fdl_lander *lander, const struct fdl_qcow2 *img,
                       struct fdl_pool *pool, const struct source *s,
                       struct fdl_err *err)
{
    uint64_t block = fdl_pool_block_size(pool), from = 0, off, len;

    while (from < s->size && fdl_qcow2_next_extent(img, from, &off, &len)) {
        uint64_t end = (off + len + block - 1) / block * block;
        off = off / block * block;
        if (off < from)
            off = from;
        from = end < s->size ? end : s->size;
        int rc = push_range(lander, pool, s, off, from, err);
        if (rc < 0)
            return rc;
    }
    return FDL_OK;
}

static int land_qcow2(const struct source *s, int out, int direct, size_t block,
                      const char *flags, uint64_t *size, struct fdl_err *err)
{
    struct fdl_land_qcow2_options options = {.detect_zeros = strchr(flags, 'd') != NULL,
                                             .threads = strchr(flags, 't') ? 1 : 0};
    struct fdl_qcow2 *img = NULL;
    struct fdl_sink *sink = NULL;
    struct fdl_lander *lander = NULL;
    struct fdl_pool *pool = fdl_pool_new(12, block);
    int rc = read_tables(&img, s, strchr(flags, 'u') != NULL, err);

    if (rc == FDL_OK) {
        *size = fdl_qcow2_get_info(img)->virtual_size;
        rc = fdl_sink_open_fd(&sink, direct >= 0 ? direct : out, out,
                              direct >= 0 ? 4096 : 1, *size, 0,
                              strchr(flags, 'b') != NULL, err);
    }
    if (rc == FDL_OK) {
        rc = fdl_land_qcow2_new(&lander, img, sink, &options, err);
        if (rc == FDL_OK && strchr(flags, 's'))
            rc = push_needed(lander, img, pool, s, err);
        else if (rc == FDL_OK)
            rc = push_range(lander, pool, s, 0, s->size, err);
        img = NULL;
    }
    if (rc == FDL_OK)
        rc = lander->ops->finish(lander, err);
    if (lander)
        lander->ops->free(lander);
    fdl_qcow2_free(img);
    fdl_sink_free(sink);
    fdl_pool_free(pool);
    return rc;
}

/* What the stream holds, by its first decoded bytes. */
static enum fdl_decoded look_inside(const struct source *s, enum fdl_inflate_kind kind)
{
    unsigned char in[4096], head[4];
    size_t got = 0, used, made, n;
    struct fdl_inflate *inflate;
    struct fdl_err err;
    uint64_t at = 0;

    if (fdl_inflate_open(&inflate, kind, NULL, &err) != FDL_OK)
        return FDL_DECODED_RAW;
    while (got < sizeof head && (n = read_at(s, in, sizeof in, at)) > 0) {
        if (fdl_inflate_feed(inflate, in, n, head + got, sizeof head - got, &used,
                             &made, &err) != FDL_OK ||
            used + made == 0)
            break;
        got += made;
        at += used;
    }
    fdl_inflate_free(inflate);
    return got == sizeof head && memcmp(head, "QFI\xfb", 4) == 0 ? FDL_DECODED_QCOW2
                                                                 : FDL_DECODED_RAW;
}

static int land_stream(const struct source *s, int out, const char *kind, size_t block,
                       uint64_t *size, struct fdl_err *err)
{
    struct fdl_pool *pool = fdl_pool_new(4, block);
    struct fdl_land_stream_options options = {
        .kind = fdl_inflate_kind_of(kind),
        .decoded = look_inside(s, fdl_inflate_kind_of(kind)),
        .qcow2_blocks = 4};
    struct fdl_sink *sink = NULL;
    struct fdl_lander *lander = NULL;
    uint64_t busy;
    int rc = fdl_sink_open_fd(&sink, out, out, 1, FDL_SIZE_UNKNOWN, 0, false, err);

    if (rc == FDL_OK)
        rc = fdl_land_stream_new(&lander, sink, &options, err);
    if (rc == FDL_OK)
        rc = push_range(lander, pool, s, 0, s->size, err);
    if (rc == FDL_OK)
        rc = lander->ops->finish(lander, err);
    if (lander) {
        lander->ops->stats(lander, size, &busy);
        lander->ops->free(lander);
    }
    fdl_sink_free(sink);
    fdl_pool_free(pool);
    return rc;
}

static int run(char *line, uint64_t *size, struct fdl_err *err)
{
    char in[4096], path[4096], kind[16], flags[16];
    struct source s = {.fd = -1};
    size_t block;
    int rc, out = -1, direct = -1;

    bool stream =
        sscanf(line, "stream %15s %4095s %4095s %zu", kind, in, path, &block) == 4;
    if (!stream &&
        sscanf(line, "qcow2 %4095s %4095s %zu %15s", in, path, &block, flags) != 4)
        return fdl_fail(err, FDL_E_USAGE, 0, "cannot read the command");
    rc = open_source(&s, in);
    if (rc == FDL_OK && (out = open(path, O_RDWR | O_CLOEXEC)) < 0)
        rc = FDL_E_USAGE;
    else if (!stream && strchr(flags, 'o') &&
             (direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC)) < 0)
        rc = FDL_E_USAGE;
    if (rc < 0)
        fdl_fail(err, rc, 0, "cannot open a file");
    else if (stream)
        rc = land_stream(&s, out, kind, block, size, err);
    else
        rc = land_qcow2(&s, out, direct, block, flags, size, err);
    if (s.fd >= 0)
        close(s.fd);
    if (out >= 0)
        close(out);
    if (direct >= 0)
        close(direct);
    return rc;
}

int main(void)
{
    static char line[16384];

    while (fgets(line, sizeof line, stdin)) {
        struct fdl_err err;
        uint64_t size = 0;
        fdl_err_clear(&err);
        int rc = run(line, &size, &err);
        printf("%d %llu %s\n", rc, (unsigned long long)size, err.what);
        fflush(stdout);
    }
    return 0;
}
