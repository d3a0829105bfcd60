/* SPDX-License-Identifier: Apache-2.0 */
/* http_rig.h - parses a head and fails the test unless it is accepted, or refused.
 * Linked to the tests that are called test_http*. */
#ifndef HTTP_RIG_H
#define HTTP_RIG_H

#include "http/http.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

#define OK "HTTP/1.1 200 OK"
#define PARTIAL "HTTP/1.1 206 Partial Content"

/* What was parsed last. */
extern struct fdl_http_head head;
extern struct fdl_err err;

long parse_bytes(const char *bytes, size_t len);

/* Parses lines joined by CRLF; fails the test where they are not a whole, good head. */
void accept_head(const char *text);

void refuse_bytes(const char *bytes, size_t len);
void refuse(const char *text);

/* Static: the head that is parsed from it borrows its pieces. */
const char *with_field(const char *status, const char *field);
void accept_field(const char *status, const char *field);
void refuse_field(const char *status, const char *field);

bool is(struct fdl_str s, const char *literal);

#endif
