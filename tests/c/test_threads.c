/* SPDX-License-Identifier: Apache-2.0 */
/* test_threads.c - where a thread cannot be started, whichever it is, the caller gets
 * an error in time and everything is given back (the sanitizer counts). */
#undef NDEBUG
#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "job/job.h"
#include "decode/land_qcow2.h"
#include "decode/land_stream.h"

#define BLOCK ((size_t)16384)
#define SIZE (20 * BLOCK)
#define CLUSTER 4096u

static struct fdl_err err;
static atomic_int left; /* threads that may be started */

typedef int create_fn(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

/* Stands before the C library's, and before the sanitizer's, in the search for the
 * name.
 */
__attribute__((visibility("default"))) int pthread_create(pthread_t *thread,
                                                          const pthread_attr_t *attr,
                                                          void *(*start)(void *),
                                                          void *arg)
{
    create_fn *real;
    void *found = dlsym(RTLD_NEXT, "pthread_create");

    memcpy(&real, &found, sizeof real);
    if (atomic_fetch_sub(&left, 1) <= 0)
        return EAGAIN;
    return real(thread, attr, start, arg);
}

static int file_of(off_t size)
{
    int fd = memfd_create("file", MFD_CLOEXEC);
    assert(fd >= 0 && ftruncate(fd, size) == 0);
    return fd;
}

/* A transfer of three digests that goes on with a response which is open already. */
static int transfer(void)
{
    struct fdl_mirror *mirror = fdl_mirror_new(FDL_MIRROR_FILE, "file", NULL);
    struct fdl_net *net = fdl_net_new();
    struct fdl_conn_times times = {0};
    struct fdl_job_config cfg = {.mirrors = &mirror,
                                 .n_mirrors = 1,
                                 .net = net,
                                 .total = SIZE,
                                 .block = BLOCK,
                                 .window = 32 * BLOCK,
                                 .max_conns = 2,
                                 .first_conns = 2,
                                 .algs = {FDL_HASH_SHA256, FDL_HASH_SHA1, FDL_HASH_MD5},
                                 .n_algs = 3,
                                 .local_fd = -1};
    struct fdl_job_result result;
    struct fdl_job *job;
    int fd = file_of(0);

    assert(mirror && net);
    mirror->fd = file_of(SIZE);
    mirror->max_conns = mirror->cap = 2;
    cfg.first = fdl_stream_file_new(mirror, &times);
    assert(cfg.first && cfg.first->ops->begin(cfg.first, 0, SIZE, &err) == FDL_OK);
    assert(fdl_sink_open_fd(&cfg.sink, fd, fd, 1, SIZE, 0, true, &err) == FDL_OK);
    int rc = fdl_job_start(&job, &cfg, &err);
    if (rc == FDL_OK) {
        for (int i = 0; !fdl_job_wait(job, 100, 0); i++)
            assert(i < 100);
        rc = fdl_job_finish(job, &result, &err);
        fdl_job_free(job);
    }
    fdl_sink_free(cfg.sink);
    fdl_mirror_free(mirror);
    fdl_net_free(net);
    close(fd);
    return rc;
}

static void put64(unsigned char *p, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        p[i] = (unsigned char)(v >> (56 - 8 * i));
}

/* 4 KiB clusters: 0 header, 1 refcounts, 2 L1, 3 L2; guest cluster 0 is compressed. */
static int qcow2_lander(void)
{
    static unsigned char image[5 * CLUSTER];
    struct fdl_land_qcow2_options options = {.threads = 3};
    struct fdl_lander *lander;
    struct fdl_qcow2 *img;
    struct fdl_sink *sink;
    size_t need;
    int fd = file_of(0);

    put64(image, (uint64_t)FDL_QCOW2_MAGIC << 32 | 3);
    put64(image + 16, 12);
    put64(image + 24, 8 * CLUSTER);
    put64(image + 32, 1);
    put64(image + 40, 2 * CLUSTER);
    put64(image + 48, CLUSTER);
    put64(image + 56, 1ull << 32);
    put64(image + 96, 4ull << 32 | 104);
    put64(image + 2 * CLUSTER, 3 * CLUSTER | 1ull << 63);
    put64(image + 3 * CLUSTER, 1ull << 62 | 4 * CLUSTER);
    assert(fdl_qcow2_open(&img, image, sizeof image, sizeof image, NULL, &need, &err) ==
               FDL_OK &&
           fdl_qcow2_feed(img, 0, image, sizeof image, &err) == FDL_OK);
    assert(fdl_sink_open_fd(&sink, fd, fd, 1, 8 * CLUSTER, 0, true, &err) == FDL_OK);
    int rc = fdl_land_qcow2_new(&lander, img, sink, &options, &err);
    if (rc == FDL_OK)
        lander->ops->free(lander);
    fdl_sink_free(sink);
    close(fd);
    return rc;
}

static int stream_lander(void)
{
    struct fdl_land_stream_options options = {.kind = FDL_INFLATE_GZ};
    struct fdl_lander *lander;
    struct fdl_sink *sink;
    struct fdl_pool *pool = fdl_pool_new(1, BLOCK);
    struct fdl_buf *buf = fdl_pool_get(pool);
    z_stream z = {.next_in = (unsigned char *)"image", .avail_in = 5};
    int fd = file_of(0);

    assert(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    z.next_out = buf->data;
    z.avail_out = BLOCK;
    assert(deflate(&z, Z_FINISH) == Z_STREAM_END);
    buf->len = z.total_out;
    deflateEnd(&z);
    assert(fdl_sink_open_fd(&sink, fd, fd, 1, FDL_SIZE_UNKNOWN, 0, true, &err) ==
           FDL_OK);
    assert(fdl_land_stream_new(&lander, sink, &options, &err) == FDL_OK);
    int rc = lander->ops->push(lander, buf, &err);
    fdl_buf_unref(buf);
    if (rc == FDL_OK)
        rc = lander->ops->finish(lander, &err);
    lander->ops->free(lander);
    fdl_sink_free(sink);
    fdl_pool_free(pool);
    close(fd);
    return rc;
}

/* Runs it with 0, 1, 2, ... threads until these are enough. */
static void expect_no_leak(int (*run)(void), int at_least)
{
    for (int threads = 0;; threads++) {
        assert(threads < 30);
        atomic_store(&left, threads);
        int rc = run();
        bool enough = atomic_load(&left) >= 0;
        if (enough && rc == FDL_OK) {
            assert(threads >= at_least);
            return;
        }
        assert(!enough && (rc == FDL_E_INTERNAL || rc == FDL_E_LIMIT));
        assert(err.code == rc);
    }
}

int main(void)
{
    expect_no_leak(transfer, 5); /* digests, monitor, a connection */
    expect_no_leak(qcow2_lander, 3);
    expect_no_leak(stream_lander, 1);
    return 0;
}
