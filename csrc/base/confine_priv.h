/* SPDX-License-Identifier: Apache-2.0 */
/* base/confine_priv.h - what the list of calls (confine.c) and the conditions on their
 * arguments (confine_args.c) share: a filter program in the making. */
#ifndef FDL_CONFINE_PRIV_H
#define FDL_CONFINE_PRIV_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#if defined(__x86_64__) && defined(__LP64__)
#define FDL_CONFINE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define FDL_CONFINE_ARCH AUDIT_ARCH_AARCH64
#endif

#define FDL_PROGRAM_MAX 600
#define FDL_CALL_ALLOWED SECCOMP_RET_ALLOW
#define FDL_CALL_FORBIDDEN (SECCOMP_RET_ERRNO | EPERM)
#define FDL_CALL_UNKNOWN (SECCOMP_RET_ERRNO | ENOSYS)

struct fdl_program {
    struct sock_filter code[FDL_PROGRAM_MAX];
    unsigned short n; /* more than FDL_PROGRAM_MAX: it did not fit */
};

void fdl_program_put(struct fdl_program *p, unsigned code, unsigned yes, unsigned no,
                     uint32_t k);
/* Loads a word of struct seccomp_data. */
void fdl_program_load(struct fdl_program *p, size_t offset);
void fdl_program_end(struct fdl_program *p, uint32_t action);

/* `condition` ends the program: the call is allowed or forbidden. */
struct fdl_confine_rule {
    unsigned call;
    void (*condition)(struct fdl_program *p);
};

/* Calls whose arguments decide. */
extern const struct fdl_confine_rule fdl_confine_bounded[];
extern const size_t fdl_confine_n_bounded;

/* The condition on socket() of a process that may connect. */
void fdl_confine_if_ip_socket(struct fdl_program *p);

#endif
