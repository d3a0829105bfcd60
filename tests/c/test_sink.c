/* SPDX-License-Identifier: Apache-2.0 */
/* test_sink.c - bytes land where they belong on real files and loop devices, and
 * held-back ranges appear last. */
#undef NDEBUG
#include "sink_rig.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREADS 4

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

/* A partition table leaves most of its MiB free: what is zero lies there since the
 * beginning, and costs neither a write nor a flush. */
static void ends_of_zeros_are_not_written_again(void)
{
    const size_t size = 4 * MIB;
    unsigned char *image = pattern(size);
    struct fdl_sink *sink;
    struct fdl_err err;
    struct target t;

    memset(image, 0, MIB);
    memset(image + size - MIB, 0, MIB);
    image[512] = 1;
    file_target(&t, folder(), 1, size);
    sink = open_sink(&t, size, MIB);
    assert(fdl_sink_begin(sink, &err) == FDL_OK);
    assert(fdl_sink_pwrite(sink, image, size, 0, &err) == FDL_OK);
    fdl_sink_keep_log(sink);
    atomic_store(&fault.log_len, 0);
    fault.log_on = true;
    assert(fdl_sink_release(sink, &err) == FDL_OK);
    fault.log_on = false;
    /* the body's flush; the one block and its flush */
    assert(atomic_load(&fault.log_len) == 3);
    assert(fault.log[1].off == 512 && fault.log[1].len == 512);
    assert(reads_as(&t, image, size, 0));
    struct fdl_range ranges[LOG_MAX];
    long n = fdl_sink_drain_log(sink, ranges, LOG_MAX, &err);
    uint64_t listed = 0;
    for (long i = 0; i < n; i++) {
        assert(ranges[i].zero == (ranges[i].off != 512));
        listed += ranges[i].len;
    }
    assert(listed == 2 * MIB); /* for a read-back, what is zero too */
    no_faults();
    fdl_sink_free(sink);
    target_free(&t);
    free(image);
}

static int syncs_of_a_flush(struct fdl_sink *sink)
{
    int before = atomic_load(&fault.sync_calls);
    struct fdl_err err;

    assert(fdl_sink_flush(sink, &err) == FDL_OK);
    return atomic_load(&fault.sync_calls) - before;
}

/* Each flush of a device is a commit of what it lies on: there is one for each change
 * that is to be durable, and none without. The first is for what an earlier run may
 * have left behind. */
static void a_flush_asks_the_kernel_where_something_changed(struct target *t, int calls)
{
    unsigned char *image = pattern(MIB);
    struct fdl_sink *sink = open_sink(t, 6 * MIB, 0);
    struct fdl_err err;

    assert(syncs_of_a_flush(sink) == 1);
    assert(syncs_of_a_flush(sink) == 0);
    assert(fdl_sink_pwrite(sink, image, MIB, MIB + 7, &err) == FDL_OK);
    assert(syncs_of_a_flush(sink) == calls); /* ragged ends, and what lies between */
    assert(syncs_of_a_flush(sink) == 0);
    assert(fdl_sink_pwrite(sink, image, 8192, 0, &err) == FDL_OK);
    assert(syncs_of_a_flush(sink) == 1);
    assert(fdl_sink_zero(sink, 0, 8192, &err) == FDL_OK);
    assert(syncs_of_a_flush(sink) == 1);
    assert(fdl_sink_release(sink, &err) == FDL_OK);
    assert(syncs_of_a_flush(sink) == 0);
    assert(reads_as(t, image, MIB, MIB + 7) && reads_zero(t, 8192, 0));
    fdl_sink_free(sink);
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

            if (file_target(&t, dirs[d], aligns[a], 6 * MIB)) {
                land_on(&t);
                a_flush_asks_the_kernel_where_something_changed(&t,
                                                                aligns[a] > 1 ? 2 : 1);
            }
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
        a_flush_asks_the_kernel_where_something_changed(&t, 1);
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
    ends_of_zeros_are_not_written_again();
    an_unknown_size_holds_the_head_alone();
    on_files();
    on_devices();
    return 0;
}
