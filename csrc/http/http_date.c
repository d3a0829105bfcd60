/* SPDX-License-Identifier: Apache-2.0 */
/* http/http_date.c - when is an HTTP-date? (RFC 9110, 5.6.7)
 *
 * Not strptime(): it needs a NUL, skips white space and follows the locale. */
#include "http/http.h"

#include <string.h>

struct date {
    int year, month, day, hour, minute, second;
};

static const char *const day_names[] = {"Mon", "Tue", "Wed", "Thu",
                                        "Fri", "Sat", "Sun"};
static const char *const long_day_names[] = {
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"};
static const char *const month_names[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                          "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};

/* Takes one of the names off the front; returns its index or -1. */
static int take_name(struct fdl_str *s, const char *const *names, int n)
{
    for (int i = 0; i < n; i++) {
        size_t len = strlen(names[i]);
        if (s->len >= len && memcmp(s->ptr, names[i], len) == 0) {
            s->ptr += len;
            s->len -= len;
            return i;
        }
    }
    return -1;
}

/* Takes exactly `width` digits off the front; returns their value or -1. */
static int take_number(struct fdl_str *s, size_t width)
{
    int value = 0;

    if (s->len < width)
        return -1;
    for (size_t i = 0; i < width; i++) {
        if (s->ptr[i] < '0' || s->ptr[i] > '9')
            return -1;
        value = value * 10 + (s->ptr[i] - '0');
    }
    s->ptr += width;
    s->len -= width;
    return value;
}

/* asctime pads the day with a space: " 6". */
static int take_padded_day(struct fdl_str *s)
{
    if (s->len == 0 || s->ptr[0] != ' ')
        return take_number(s, 2);
    s->ptr++;
    s->len--;
    return take_number(s, 1);
}

/* Takes what the strptime-like letter `what` stands for; false where it is not there.
 */
static bool take_part(struct fdl_str *s, char what, struct date *d)
{
    switch (what) {
    case 'a':
        return take_name(s, day_names, 7) >= 0;
    case 'A':
        return take_name(s, long_day_names, 7) >= 0;
    case 'b':
        return (d->month = take_name(s, month_names, 12) + 1) > 0;
    case 'd':
        return (d->day = take_number(s, 2)) >= 0;
    case 'e':
        return (d->day = take_padded_day(s)) >= 0;
    case 'Y':
        return (d->year = take_number(s, 4)) >= 0;
    case 'y':
        d->year = take_number(s, 2);
        if (d->year < 0)
            return false;
        /* The century by POSIX' rule, which needs no clock. */
        d->year += d->year < 69 ? 2000 : 1900;
        return true;
    case 'H':
        return (d->hour = take_number(s, 2)) >= 0;
    case 'M':
        return (d->minute = take_number(s, 2)) >= 0;
    default:
        return (d->second = take_number(s, 2)) >= 0;
    }
}

static bool matches(struct fdl_str s, const char *form, struct date *d)
{
    for (; *form; form++) {
        if (*form == '%') {
            if (!take_part(&s, *++form, d))
                return false;
        } else {
            if (s.len == 0 || s.ptr[0] != *form)
                return false;
            s.ptr++;
            s.len--;
        }
    }
    return s.len == 0;
}

static bool is_leap(int year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

/* Leap days of the years 1..year. */
static int leap_days(int year)
{
    return year / 4 - year / 100 + year / 400;
}

static int64_t seconds_of(const struct date *d)
{
    static const int before[] = {0,   31,  59,  90,  120, 151, 181,
                                 212, 243, 273, 304, 334, 365};
    int leap = is_leap(d->year) ? 1 : 0;

    if (d->year < 1970 || d->hour > 23 || d->minute > 59 || d->second > 60)
        return -1;
    int month_len =
        before[d->month] - before[d->month - 1] + (d->month == 2 ? leap : 0);
    if (d->day < 1 || d->day > month_len)
        return -1;

    int64_t days = 365 * (int64_t)(d->year - 1970) + leap_days(d->year - 1) -
                   leap_days(1969) + before[d->month - 1] + (d->month > 2 ? leap : 0) +
                   d->day - 1;
    return ((days * 24 + d->hour) * 60 + d->minute) * 60 + d->second;
}

int64_t fdl_http_parse_date(const char *s, size_t len)
{
    static const char *const forms[] = {
        "%a, %d %b %Y %H:%M:%S GMT", /* IMF-fixdate */
        "%A, %d-%b-%y %H:%M:%S GMT", /* RFC 850 */
        "%a %b %e %H:%M:%S %Y",      /* asctime */
    };
    const struct fdl_str text = {s, len};

    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        struct date d = {0};
        if (matches(text, forms[i], &d))
            return seconds_of(&d);
    }
    return -1;
}
