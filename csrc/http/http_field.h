/* SPDX-License-Identifier: Apache-2.0 */
/* http/http_field.h - which field of a head has this name? Inline: a head is checked
 * for a dozen names. */
#ifndef FDL_HTTP_FIELD_H
#define FDL_HTTP_FIELD_H

#include "http/http.h"
#include "http/http_str.h"

/* The first field of that name at or after *at, which moves past it; NULL: none. */
static inline const struct fdl_http_field *
fdl_http_next_field(const struct fdl_http_head *head, const char *name, size_t *at)
{
    while (*at < head->n_fields) {
        const struct fdl_http_field *field = &head->fields[(*at)++];
        if (fdl_str_equals(field->name, name))
            return field;
    }
    return NULL;
}

/* Its value, or an empty string. */
static inline struct fdl_str fdl_http_value_of(const struct fdl_http_head *head,
                                               const char *name)
{
    size_t at = 0;
    const struct fdl_http_field *field = fdl_http_next_field(head, name, &at);
    return field ? field->value : fdl_str_empty;
}

#endif
