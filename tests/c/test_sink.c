/* SPDX-License-Identifier: Apache-2.0 */
/* test_sink.c - bytes land where they belong on real files and loop devices, whatever
 * the kernel answers; held-back ranges appear last; a failed flush is never forgotten.
 *
 * The system calls of the sink are interposed here: the test says which call fails. */
#undef NDEBUG
#include "sink/sink.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define THREADS 4
#define LOG_MAX 64

/* --- the interposed calls --- */

static struct {
    atomic_int write_errno;   /* what the next failing pwrite says */
    atomic_int write_nth;     /* which one fails (1 = the next), 0 = none */
    atomic_int write_times;   /* how many fail in a row */
    atomic_size_t write_most; /* no pwrite writes more; 0 = no limit */
    atomic_int direct_einval; /* O_DIRECT writes are refused */
    atomic_int sync_errno;
    atomic_int behind_errno;
    atomic_int zero_errno; /* fallocate and BLKZEROOUT */
    atomic_int zero_calls;
    atomic_int write_calls;
    atomic_int sync_calls;
    atomic_int direct_calls;
    bool log_on; /* what is written and flushed (len 0) is recorded */
    atomic_uint log_len;
    struct {
        uint64_t off, len;
    } log[LOG_MAX];
    char order[64]; /* 'h' and 't' writes, 's' syncs, of the release test */
    atomic_uint order_len;
    uint64_t order_tail; /* where the tail begins; 0 = nothing is recorded */
} fault;

static void no_faults(void)
{
    memset(&fault, 0, sizeof fault);
}

static void log_call(uint64_t off, uint64_t len)
{
    unsigned at;

    if (!fault.log_on)
        return;
    at = atomic_fetch_add(&fault.log_len, 1u);
    if (at < LOG_MAX) {
        fault.log[at].off = off;
        fault.log[at].len = len;
    }
}

static void note(char what)
{
    unsigned at = atomic_fetch_add(&fault.order_len, 1u);

    if (fault.order_tail && at < sizeof fault.order - 1)
        fault.order[at] = what;
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
    bool direct = (fcntl(fd, F_GETFL) & O_DIRECT) != 0;
    size_t most = atomic_load(&fault.write_most);

    atomic_fetch_add(&fault.write_calls, 1);
    log_call((uint64_t)off, len);
    if (fault.order_tail)
        note(off == 0 ? 'h' : (uint64_t)off >= fault.order_tail ? 't' : 'b');
    if (direct) {
        atomic_fetch_add(&fault.direct_calls, 1);
        if (atomic_load(&fault.direct_einval)) {
            errno = EINVAL;
            return -1;
        }
    }
    if (atomic_load(&fault.write_nth) > 0 &&
        atomic_fetch_sub(&fault.write_nth, 1) == 1) {
        if (atomic_fetch_sub(&fault.write_times, 1) > 1)
            atomic_store(&fault.write_nth, 1);
        errno = atomic_load(&fault.write_errno);
        return errno ? -1 : 0;
    }
    if (most && len > most) {
        /* The kernel shortens direct writes to whole sectors. */
        len = direct && most >= 512 ? most / 512 * 512 : most;
        if (direct && most < 512)
            fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT);
    }
    ssize_t n = syscall(SYS_pwrite64, fd, buf, len, off);
    int keep = errno;

    if (direct)
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT);
    errno = keep;
    return n;
}

int fdatasync(int fd)
{
    atomic_fetch_add(&fault.sync_calls, 1);
    note('s');
    log_call(0, 0);
    errno = atomic_exchange(&fault.sync_errno, 0);
    return errno ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int sync_file_range(int fd, off_t off, off_t len, unsigned flags)
{
    errno = atomic_exchange(&fault.behind_errno, 0);
    return errno ? -1 : (int)syscall(SYS_sync_file_range, fd, off, len, flags);
}

int fallocate(int fd, int mode, off_t off, off_t len)
{
    atomic_fetch_add(&fault.zero_calls, 1);
    errno = atomic_load(&fault.zero_errno);
    return errno ? -1 : (int)syscall(SYS_fallocate, fd, mode, off, len);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list args;
    void *arg;

    va_start(args, request);
    arg = va_arg(args, void *);
    va_end(args);
    errno = atomic_load(&fault.zero_errno);
    return errno ? -1 : (int)syscall(SYS_ioctl, fd, request, arg);
}

/* --- targets --- */

struct target {
    const char *name;
    char path[256];
    char backing[256];
    int fd, buffered;
    size_t align;
};

static const char *folder(void)
{
    const char *dir = getenv("TMPDIR");

    return dir && *dir ? dir : "/tmp";
}

static void fill(int fd, uint64_t size)
{
    unsigned char *old = malloc(MIB);

    memset(old, 0xAA, MIB);
    for (uint64_t off = 0; off < size;) {
        size_t n = size - off < MIB ? (size_t)(size - off) : MIB;

        assert(syscall(SYS_pwrite64, fd, old, n, off) == (long)n);
        off += n;
    }
    assert(syscall(SYS_fdatasync, fd) == 0);
    free(old);
}

static bool open_both(struct target *t, size_t align)
{
    t->buffered = open(t->path, O_RDWR | O_CLOEXEC);
    assert(t->buffered >= 0);
    t->align = align;
    t->fd = align > 1 ? open(t->path, O_RDWR | O_DIRECT | O_CLOEXEC) : t->buffered;
    return t->fd >= 0;
}

/* A dirty file of `size` bytes; false where the file system has no O_DIRECT. */
static bool file_target(struct target *t, const char *dir, size_t align, uint64_t size)
{
    int fd;

    memset(t, 0, sizeof *t);
    t->name = align > 1 ? "file, direct" : "file, buffered";
    snprintf(t->path, sizeof t->path, "%s/fdl_sink_XXXXXX", dir);
    fd = mkstemp(t->path);
    assert(fd >= 0);
    fill(fd, size);
    close(fd);
    return open_both(t, align);
}

/* A dirty loop device over a file of `size` bytes; false without the right to. */
static bool loop_target(struct target *t, unsigned sector, uint64_t size)
{
    /* Gone with its last descriptor, also where an assertion ends the test. */
    struct loop_config config = {.block_size = sector,
                                 .info.lo_flags = LO_FLAGS_AUTOCLEAR};
    int control, backing, device = -1;

    memset(t, 0, sizeof *t);
    t->name = sector == 512 ? "loop, 512" : "loop, 4096";
    control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        return false;
    snprintf(t->backing, sizeof t->backing, "%s/fdl_loop_XXXXXX", folder());
    backing = mkstemp(t->backing);
    assert(backing >= 0);
    fill(backing, size);
    config.fd = (unsigned)backing;
    /* Others take loop devices at the same time: between asking and taking. */
    for (int tries = 0; tries < 20 && device < 0; tries++) {
        int index = ioctl(control, LOOP_CTL_GET_FREE, 0);

        if (index < 0)
            break;
        snprintf(t->path, sizeof t->path, "/dev/loop%d", index);
        device = open(t->path, O_RDWR | O_CLOEXEC);
        if (device >= 0 && ioctl(device, LOOP_CONFIGURE, &config) < 0) {
            close(device);
            device = -1;
        }
    }
    close(control);
    close(backing);
    if (device < 0) {
        unlink(t->backing);
        return false;
    }
    assert(open_both(t, sector));
    close(device);
    return true;
}

static void target_free(struct target *t)
{
    if (t->fd >= 0 && t->fd != t->buffered)
        close(t->fd);
    unlink(t->backing[0] ? t->backing : t->path);
    close(t->buffered);
}

static struct fdl_sink *open_sink(const struct target *t, uint64_t size, size_t hold)
{
    struct fdl_sink *sink = NULL;
    struct fdl_err err;

    assert(fdl_sink_open_fd(&sink, t->fd, t->buffered, t->align, size, hold, false,
                            &err) == FDL_OK);
    return sink;
}

/* What an independent reader finds on the target. */
static bool reads_as(const struct target *t, const unsigned char *want, size_t len,
                     uint64_t off)
{
    unsigned char *got = malloc(len ? len : 1);
    int fd = open(t->path, O_RDONLY | O_CLOEXEC);
    bool same =
        pread(fd, got, len, (off_t)off) == (ssize_t)len && memcmp(got, want, len) == 0;

    for (size_t i = 0; !same && i < len; i++)
        if (got[i] != want[i]) {
            fprintf(stderr, "%s: byte %zu is %02x, not %02x\n", t->name, i, got[i],
                    want[i]);
            break;
        }
    close(fd);
    free(got);
    return same;
}

static bool reads_zero(const struct target *t, size_t len, uint64_t off)
{
    unsigned char *zeros = calloc(1, len);
    bool same = reads_as(t, zeros, len, off);

    free(zeros);
    return same;
}

static unsigned char *pattern(size_t len)
{
    unsigned char *p = aligned_alloc(4096, (len + 4095) / 4096 * 4096);

    for (size_t i = 0; i < len; i++)
        p[i] = (unsigned char)(i * 31 + i / 251 + 1);
    return p;
}

/* --- claims --- */

struct piece {
    uint64_t off;
    size_t len;
    bool zero;
};

struct crew {
    struct fdl_sink *sink;
    const unsigned char *image;
    const struct piece *pieces;
    size_t n;
    atomic_size_t next;
};

static void *land_pieces(void *arg)
{
    struct crew *crew = arg;
    struct fdl_err err;

    for (;;) {
        size_t at = atomic_fetch_add(&crew->next, 1u);
        const struct piece *p = &crew->pieces[at];
        int rc;

        if (at >= crew->n)
            return NULL;
        rc = p->zero ? fdl_sink_zero(crew->sink, p->off, p->len, &err)
                     : fdl_sink_pwrite(crew->sink, crew->image + p->off, p->len, p->off,
                                       &err);
        if (rc)
            fprintf(stderr, "%d %d %s\n", rc, err.os_errno, err.what);
        assert(rc == FDL_OK);
    }
}

/* Cuts [0, size) at ragged and at round places, in a random order. */
static size_t cut(struct piece *pieces, size_t room, size_t size, unsigned seed)
{
    size_t n = 0;

    for (size_t off = 0; off < size && n < room; n++) {
        size_t len = (size_t)rand_r(&seed) % (192 << 10) + 1;

        if (rand_r(&seed) % 2)
            len = (len + 4095) / 4096 * 4096;
        if (len > size - off || n + 1 == room)
            len = size - off;
        pieces[n] = (struct piece){off, len, rand_r(&seed) % 3 == 0};
        off += len;
    }
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)rand_r(&seed) % i;
        struct piece p = pieces[i - 1];

        pieces[i - 1] = pieces[j];
        pieces[j] = p;
    }
    return n;
}

/* The image lands whole from several threads, ragged neighbours in one page included.
 */
static void any_pieces_from_any_threads_land(struct target *t, size_t size, size_t hold,
                                             unsigned seed)
{
    struct piece pieces[256];
    unsigned char *image = pattern(size);
    struct crew crew = {.image = image, .pieces = pieces};
    pthread_t threads[THREADS];
    struct fdl_sink_stats stats;
    struct fdl_err err;
    size_t ends;

    fill(t->buffered, size);
    crew.n = cut(pieces, 256, size, seed);
    for (size_t i = 0; i < crew.n; i++)
        if (pieces[i].zero)
            memset(image + pieces[i].off, 0, pieces[i].len);
    crew.sink = open_sink(t, size, hold);
    assert(fdl_sink_begin(crew.sink, &err) == FDL_OK);
    for (int i = 0; i < THREADS; i++)
        assert(pthread_create(&threads[i], NULL, land_pieces, &crew) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert(fdl_sink_flush(crew.sink, &err) == FDL_OK);

    ends = hold < size ? hold : size;
    assert(reads_zero(t, ends, 0) && reads_zero(t, ends, size - ends));
    assert(fdl_sink_release(crew.sink, &err) == FDL_OK);
    assert(reads_as(t, image, size, 0));
    fdl_sink_get_stats(crew.sink, &stats);
    assert(stats.written_bytes + stats.zeroed_bytes >= size);
    fdl_sink_free(crew.sink);
    free(image);
}

static void land_on(struct target *t)
{
    const size_t sizes[] = {1, 511, 4096, 3 * MIB / 2, 5 * MIB + 513, 6 * MIB};

    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        any_pieces_from_any_threads_land(t, sizes[i], 0, i + 1);
        any_pieces_from_any_threads_land(t, sizes[i], MIB, i + 100);
    }
    for (unsigned seed = 1000; seed < 1008; seed++)
        any_pieces_from_any_threads_land(t, 6 * MIB - seed, MIB, seed);
}

/* Head and tail appear in this order only, each made durable before the next. */
static void release_writes_body_then_tail_then_head(void)
{
    const size_t size = 64 << 10, hold = 8192;
    unsigned char *image = pattern(size);
    struct fdl_sink *sink;
    struct fdl_err err;
    struct target t;

    memset(image + 1024, 0, 512); /* a block that is zero need not be written */
    file_target(&t, folder(), 1, size);
    sink = open_sink(&t, size, hold);
    assert(fdl_sink_begin(sink, &err) == FDL_OK);
    assert(fdl_sink_pwrite(sink, image, size, 0, &err) == FDL_OK);
    assert(reads_zero(&t, hold, 0) && reads_zero(&t, hold, size - hold));
    assert(reads_as(&t, image + hold, size - 2 * hold, hold));
    fault.order_tail = size - hold;
    atomic_store(&fault.order_len, 0);
    assert(fdl_sink_release(sink, &err) == FDL_OK);
    /* tail; the head behind its first blocks; six of those, block by block; the first
     */
    assert(strcmp(fault.order, "stsbs"
                               "bsbsbsbsbsbs"
                               "hs") == 0);
    assert(reads_as(&t, image, size, 0));
    no_faults();
    fdl_sink_free(sink);
    target_free(&t);
    free(image);
}

/* A power cut may come between any two writes, and tears what is longer than a block:
 * the block by which the image is recognised is alone in its write, and everything else
 * was flushed before it. The first block may lie anywhere in the head: a partition
 * table at 0, a superblock at 1024, an ISO's descriptor at 32768. */
static void the_first_block_is_written_last_and_alone(size_t first, size_t size)
{
    const size_t hold = 1 << 20;
    unsigned char *image = pattern(size);
    struct fdl_sink *sink;
    struct fdl_err err;
    struct target t;

    memset(image, 0, first);
    image[first] = 1;
    file_target(&t, folder(), 1, size);
    sink = open_sink(&t, size, hold);
    assert(fdl_sink_begin(sink, &err) == FDL_OK);
    assert(fdl_sink_pwrite(sink, image, size, 0, &err) == FDL_OK);
    atomic_store(&fault.log_len, 0);
    fault.log_on = true;
    assert(fdl_sink_release(sink, &err) == FDL_OK);
    fault.log_on = false;
    unsigned n = atomic_load(&fault.log_len);
    assert(n >= 2 && n <= LOG_MAX);
    assert(fault.log[n - 1].len == 0); /* a flush */
    assert(fault.log[n - 2].off == first && fault.log[n - 2].len <= 512);
    assert(n == 2 || fault.log[n - 3].len == 0);
    for (unsigned i = 0; i + 2 < n; i++)
        assert(fault.log[i].len == 0 || fault.log[i].off > first);
    assert(reads_as(&t, image, size, 0));
    no_faults();
    fdl_sink_free(sink);
    target_free(&t);
    free(image);
}

/* A stream without a known length: the head waits, and no byte that was not given is
 * written at release. */
static void an_unknown_size_holds_the_head_alone(void)
{
    const size_t old = 64 << 10;
    unsigned char *image = pattern(5000);
    struct fdl_sink *sink;
    struct fdl_err err;
    struct target t;

    file_target(&t, folder(), 1, 1000);
    sink = open_sink(&t, FDL_SIZE_UNKNOWN, old);
    assert(fdl_sink_pwrite(sink, image, 5000, 0, &err) == FDL_OK);
    assert(fdl_sink_release(sink, &err) == FDL_OK);
    assert(lseek(t.buffered, 0, SEEK_END) == 5000);
    assert(reads_as(&t, image, 5000, 0));
    assert(fdl_sink_pwrite(sink, image, 7, 3, &err) == FDL_OK);
    assert(reads_as(&t, image, 7, 3)); /* after release nothing is held */
    fdl_sink_free(sink);
    target_free(&t);
    free(image);
}

static void nothing_lands_past_the_end(void)
{
    struct fdl_sink *sink;
    struct fdl_err err;
    struct target t;

    file_target(&t, folder(), 1, 0);
    sink = open_sink(&t, 4096, 0);
    assert(fdl_sink_pwrite(sink, "xy", 2, 4095, &err) == FDL_E_SIZE);
    assert(fdl_sink_pwrite(sink, "x", 1, UINT64_MAX, &err) == FDL_E_SIZE);
    assert(fdl_sink_zero(sink, 1, UINT64_MAX, &err) == FDL_E_SIZE);
    assert(lseek(t.buffered, 0, SEEK_END) == 0);
    assert(fdl_sink_release(sink, &err) ==
           FDL_OK); /* a refused range is no failed write */
    fdl_sink_free(sink);
    sink = open_sink(&t, FDL_SIZE_UNKNOWN, 0);
    assert(fdl_sink_pwrite(sink, "xy", 2, INT64_MAX, &err) == FDL_E_SIZE);
    fdl_sink_free(sink);
    assert(fdl_sink_open_fd(&sink, t.fd, t.fd, 1, (uint64_t)INT64_MAX + 1, 0, false,
                            &err) == FDL_E_SIZE);
    target_free(&t);
}

/* S03: short writes of every size, EINTR and EAGAIN are data, not failures. */
static void short_writes_and_interruptions_are_no_failures(size_t align)
{
    const size_t size = 24 << 10;
    const int again[] = {EINTR, EAGAIN};
    unsigned char *image = pattern(size);
    struct fdl_err err;
    struct target t;

    if (!file_target(&t, folder(), align, size)) {
        target_free(&t);
        free(image);
        return;
    }
    for (size_t most = 1; most <= 9000; most = most < 70 ? most + 1 : most * 2 - 1) {
        struct fdl_sink *sink = open_sink(&t, size, 0);

        fill(t.buffered, size);
        atomic_store(&fault.write_most, most);
        assert(fdl_sink_pwrite(sink, image, size - 100, 0, &err) == FDL_OK);
        assert(fdl_sink_pwrite(sink, image + size - 100, 100, size - 100, &err) == 0);
        no_faults();
        assert(fdl_sink_flush(sink, &err) == FDL_OK && reads_as(&t, image, size, 0));
        fdl_sink_free(sink);
    }
    for (int i = 0; i < 2; i++) {
        struct fdl_sink *sink = open_sink(&t, size, 0);

        fill(t.buffered, size);
        atomic_store(&fault.write_errno, again[i]);
        atomic_store(&fault.write_times, 5);
        atomic_store(&fault.write_nth, 1);
        assert(fdl_sink_pwrite(sink, image, size, 0, &err) == FDL_OK);
        assert(reads_as(&t, image, size, 0));
        no_faults();
        fdl_sink_free(sink);
    }
    target_free(&t);
    free(image);
}

/* EAGAIN without end ends. */
static void a_target_that_is_never_ready_fails(void)
{
    struct fdl_sink *sink;
    struct fdl_err err;
    struct target t;

    file_target(&t, folder(), 1, 0);
    sink = open_sink(&t, 10, 0);
    atomic_store(&fault.write_errno, EAGAIN);
    atomic_store(&fault.write_times, 1 << 30);
    atomic_store(&fault.write_nth, 1);
    assert(fdl_sink_pwrite(sink, "x", 1, 0, &err) == FDL_E_SINK_IO);
    assert(err.os_errno == EAGAIN && err.offset == 0);
    no_faults();
    fdl_sink_free(sink);
    target_free(&t);
}

/* S01, S02: the class says space or input/output; a job with a hole is never released.
 */
static void a_failed_write_is_reported_and_forbids_release(void)
{
    const struct {
        int os_errno, code;
    } cases[] = {{EIO, FDL_E_SINK_IO},       {ENOSPC, FDL_E_SINK_SPACE},
                 {EDQUOT, FDL_E_SINK_SPACE}, {EFBIG, FDL_E_SINK_SPACE},
                 {EROFS, FDL_E_SINK_IO},     {0, FDL_E_SINK_SPACE}};
    unsigned char *image = pattern(64 << 10);
    struct fdl_err err;
    struct target t;

    file_target(&t, folder(), 1, 64 << 10);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fdl_sink *sink = open_sink(&t, 64 << 10, 4096);

        assert(fdl_sink_begin(sink, &err) == FDL_OK);
        atomic_store(&fault.write_errno, cases[i].os_errno);
        atomic_store(&fault.write_nth, 1);
        assert(fdl_sink_pwrite(sink, image, 64 << 10, 0, &err) == cases[i].code);
        assert(err.offset == 4096);
        no_faults();
        assert(fdl_sink_flush(sink, &err) == FDL_OK);
        assert(fdl_sink_release(sink, &err) == FDL_E_SINK_IO);
        assert(reads_zero(&t, 4096, 0));
        fdl_sink_free(sink);
    }
    target_free(&t);
    free(image);
}

/* fsyncgate: the kernel forgets, we do not. */
static void after_a_failed_flush_nothing_succeeds(void)
{
    unsigned char *image = pattern(MIB);
    struct fdl_sink *sink;
    struct fdl_err err;
    struct target t;
    int calls;

    file_target(&t, folder(), 1, MIB);
    sink = open_sink(&t, MIB, 4096);
    atomic_store(&fault.sync_errno, EIO);
    assert(fdl_sink_flush(sink, &err) == FDL_E_SINK_IO && err.os_errno == EIO);
    calls = atomic_load(&fault.sync_calls);
    assert(fdl_sink_flush(sink, &err) == FDL_E_SINK_IO && err.os_errno == EIO);
    assert(fdl_sink_release(sink, &err) == FDL_E_SINK_IO);
    assert(atomic_load(&fault.sync_calls) == calls);
    no_faults();
    fdl_sink_free(sink);

    sink = open_sink(&t, MIB, 0);
    atomic_store(&fault.sync_errno, EINTR);
    assert(fdl_sink_flush(sink, &err) == FDL_OK);
    atomic_store(&fault.sync_errno, EDQUOT);
    assert(fdl_sink_flush(sink, &err) == FDL_E_SINK_SPACE);
    no_faults();
    fdl_sink_free(sink);

    /* What write-behind was told counts as much. */
    sink = open_sink(&t, MIB, 0);
    atomic_store(&fault.behind_errno, EIO);
    assert(fdl_sink_pwrite(sink, image, MIB, 0, &err) == FDL_OK);
    assert(fdl_sink_flush(sink, &err) == FDL_E_SINK_IO && err.os_errno == EIO);
    no_faults();
    fdl_sink_free(sink);
    target_free(&t);
    free(image);
}

/* Once a file system has refused a direct write it is not asked again. */
static void refused_direct_writes_go_through_the_cache_for_ever(void)
{
    unsigned char *image = pattern(MIB);
    struct fdl_sink *sink;
    struct fdl_err err;
    struct target t;

    if (!file_target(&t, folder(), 512, MIB)) {
        target_free(&t);
        free(image);
        return;
    }
    sink = open_sink(&t, MIB, 0);
    atomic_store(&fault.direct_einval, 1);
    for (int i = 0; i < 16; i++)
        assert(fdl_sink_pwrite(sink, image + i * 65536, 65536, (uint64_t)i * 65536,
                               &err) == FDL_OK);
    assert(atomic_load(&fault.direct_calls) == 1);
    no_faults();
    assert(fdl_sink_flush(sink, &err) == FDL_OK && reads_as(&t, image, MIB, 0));
    fdl_sink_free(sink);
    target_free(&t);
    free(image);
}

/* The ladder is climbed once; what no command does is done by writing. */
static void zeros_are_written_where_no_command_works(void)
{
    const int refusals[] = {EOPNOTSUPP, EINVAL, ENOTTY, ENOSYS, EPERM, EACCES};
    struct fdl_sink_stats stats;
    struct fdl_err err;
    struct target t;

    file_target(&t, folder(), 1, 3 * MIB);
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        struct fdl_sink *sink = open_sink(&t, 3 * MIB, 0);

        fill(t.buffered, 3 * MIB);
        atomic_store(&fault.zero_errno, refusals[i]);
        assert(fdl_sink_zero(sink, 5, 2 * MIB, &err) == FDL_OK);
        assert(fdl_sink_zero(sink, 2 * MIB + 5, MIB - 5, &err) == FDL_OK);
        assert(atomic_load(&fault.zero_calls) == 2); /* ZERO_RANGE and punch, once */
        assert(reads_zero(&t, 3 * MIB - 5, 5));
        fdl_sink_get_stats(sink, &stats);
        assert(stats.zeroed_bytes == 0 && stats.written_bytes == 3 * MIB - 5);
        no_faults();
        fdl_sink_free(sink);
    }
    struct fdl_sink *sink = open_sink(&t, 3 * MIB, 0);

    atomic_store(&fault.zero_errno, EIO);
    assert(fdl_sink_zero(sink, 0, MIB, &err) == FDL_E_SINK_IO);
    no_faults();
    fdl_sink_free(sink);
    target_free(&t);
}

/* Zeros past the end of a file must be readable, by whatever way they were made. */
static void zeros_lengthen_a_file(const char *dir, bool blank)
{
    struct fdl_sink *sink = NULL;
    struct fdl_err err;
    struct target t;

    file_target(&t, dir, 1, 0);
    assert(fdl_sink_open_fd(&sink, t.fd, t.fd, 1, FDL_SIZE_UNKNOWN, 0, blank, &err) ==
           0);
    assert(fdl_sink_zero(sink, 0, MIB + 17, &err) == FDL_OK);
    assert(fdl_sink_pwrite(sink, "end", 3, MIB + 17, &err) == FDL_OK);
    assert(fdl_sink_zero(sink, 2 * MIB, MIB, &err) == FDL_OK);
    assert(reads_zero(&t, MIB + 17, 0) && reads_zero(&t, MIB, 2 * MIB));
    assert(lseek(t.buffered, 0, SEEK_END) == (off_t)(3 * MIB));
    fdl_sink_free(sink);
    target_free(&t);
}

/* S04 where the size is not known before: the kernel's short write is no success. */
static void a_device_end_is_no_space(struct target *t, size_t device)
{
    unsigned char *image = pattern(64 << 10);
    struct fdl_sink *sink = open_sink(t, FDL_SIZE_UNKNOWN, 0);
    struct fdl_err err;

    assert(fdl_sink_pwrite(sink, image, 64 << 10, device - 4096, &err) ==
           FDL_E_SINK_SPACE);
    assert(fdl_sink_zero(sink, device - 8192, 64 << 10, &err) == FDL_E_SINK_SPACE);
    fdl_sink_free(sink);
    free(image);
}

static void the_null_sink_counts_and_keeps_nothing(void)
{
    struct fdl_sink_stats stats;
    struct fdl_sink *sink = NULL;
    struct fdl_err err;

    assert(fdl_sink_open_null(&sink, &err) == FDL_OK);
    assert(fdl_sink_begin(sink, &err) == FDL_OK);
    assert(fdl_sink_pwrite(sink, "abc", 3, 1 << 30, &err) == FDL_OK);
    assert(fdl_sink_zero(sink, 0, 1 << 20, &err) == FDL_OK);
    assert(fdl_sink_flush(sink, &err) == FDL_OK);
    assert(fdl_sink_release(sink, &err) == FDL_OK);
    fdl_sink_get_stats(sink, &stats);
    assert(stats.written_bytes == 3 && stats.zeroed_bytes == 1 << 20);
    fdl_sink_free(sink);
    fdl_sink_free(NULL);
}

static void on_files(void)
{
    const char *dirs[] = {folder(), "/dev/shm"};
    const size_t aligns[] = {1, 512, 4096};

    for (int d = 0; d < 2; d++) {
        if (access(dirs[d], W_OK) < 0)
            continue;
        for (int a = 0; a < 3; a++) {
            struct target t;

            if (file_target(&t, dirs[d], aligns[a], 6 * MIB))
                land_on(&t);
            target_free(&t);
        }
        zeros_lengthen_a_file(dirs[d], false);
        zeros_lengthen_a_file(dirs[d], true);
    }
}

static void on_devices(void)
{
    const unsigned sectors[] = {512, 4096};

    for (int i = 0; i < 2; i++) {
        struct target t;

        if (!loop_target(&t, sectors[i], 6 * MIB)) {
            fprintf(stderr, "test_sink: no loop devices here: files alone\n");
            return;
        }
        land_on(&t);
        a_device_end_is_no_space(&t, 6 * MIB);
        target_free(&t);
    }
}

int main(void)
{
    nothing_lands_past_the_end();
    the_null_sink_counts_and_keeps_nothing();
    release_writes_body_then_tail_then_head();
    const size_t firsts[] = {0, 512, 1024, 4096, 32768, 65536, (1 << 20) - 512};
    for (size_t i = 0; i < sizeof firsts / sizeof *firsts; i++) {
        the_first_block_is_written_last_and_alone(firsts[i], (size_t)3 << 20);
        the_first_block_is_written_last_and_alone(firsts[i], firsts[i] + 700);
    }
    an_unknown_size_holds_the_head_alone();
    short_writes_and_interruptions_are_no_failures(1);
    short_writes_and_interruptions_are_no_failures(512);
    a_target_that_is_never_ready_fails();
    a_failed_write_is_reported_and_forbids_release();
    after_a_failed_flush_nothing_succeeds();
    refused_direct_writes_go_through_the_cache_for_ever();
    zeros_are_written_where_no_command_works();
    on_files();
    on_devices();
    return 0;
}
