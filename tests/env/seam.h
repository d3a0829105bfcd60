/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the seam share: seam.c decides what becomes of a call, seam_calls.c
 * stands in for the calls, seam_record.c notes what they ask of storage. */
#ifndef FASTDL_SEAM_H
#define FASTDL_SEAM_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/uio.h>

enum verdict { PASS, FAIL, TEAR, SHORT, FLIP };

/* What becomes of the call named call on fd, or on path where there is one. FAIL: errno
 * says how. Does not return where the call is the last one. */
enum verdict seam_meet(const char *call, int fd, const char *path);
_Noreturn void seam_die(void);
/* Which call is meant, counted from 1. */
long seam_nth(void);
/* How far off the wall clock is. */
long seam_clock_s(void);
/* What an inode number looks like. */
unsigned long seam_inode(unsigned long inode);
/* Reads the environment: in a constructor, and in a process that was forked. */
void seam_arm(void);

/* What a program asks of storage, written down in the order in which it asks: enough to
 * say what a disk may hold after a power cut at any moment. storage_log.py reads it.
 *
 * Calls that change bytes are noted when they start, with their bytes, and again when
 * they end: a flush makes durable what had ended before it started. Calls that change
 * names are noted at their end, one at a time. */

/* Begins a new log at path; NULL ends it. */
void record_to(const char *path);

/* Each returns a number for record_done, 0 where nothing is noted. at < 0: where the
 * descriptor stands. */
long record_write(int fd, const struct iovec *parts, int count, size_t limit, off_t at);
long record_zeros(int fd, off_t at, off_t n);
long record_size(int fd, off_t size, bool only_grow);
long record_flush(int fd);
void record_done(long number, bool ok);

/* Names. Between record_names and its end no other thread changes any. */
void record_names(void);
void record_opened(int fd, bool made);
void record_moved(char kind, int from_at, const char *from, int to_at, const char *to,
                  bool ok);
void record_removed(char kind, int at, const char *path, bool ok);
void record_names_end(void);

#endif
