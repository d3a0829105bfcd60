/* SPDX-License-Identifier: Apache-2.0 */
/* judge_address.c - a driver for the twin test: the C judge's verdict for addresses on
 * stdin.
 *
 *   ADDRESS STRICT FROM [CIDR…]    STRICT: 0 or 1;  FROM: class number of the host that
 * led here, -1 where the address was typed
 *
 * One answer per line: "CLASS ALLOWED", or "bad" where the line is not understood. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "fdl_net.h"

static bool parse(const char *text, struct sockaddr_storage *ss)
{
    struct sockaddr_in *in = (struct sockaddr_in *)ss;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;

    memset(ss, 0, sizeof *ss);
    if (inet_pton(AF_INET, text, &in->sin_addr) == 1)
        ss->ss_family = AF_INET;
    else if (inet_pton(AF_INET6, text, &in6->sin6_addr) == 1)
        ss->ss_family = AF_INET6;
    return ss->ss_family != 0;
}

static bool judge(char *line)
{
    struct sockaddr_storage ss;
    struct fdl_net *net = fdl_net_new();
    char *rest = NULL, *address = strtok_r(line, " \n", &rest);
    char *strict = strtok_r(NULL, " \n", &rest), *from = strtok_r(NULL, " \n", &rest),
         *cidr;
    bool good = net && address && strict && from && parse(address, &ss);
    int class = -1;

    if (good)
        good = sscanf(from, "%d", &class) == 1;
    while (good && (cidr = strtok_r(NULL, " \n", &rest)) != NULL)
        good = fdl_net_allow_cidr(net, cidr, NULL) == FDL_OK;
    if (good) {
        struct sockaddr *sa = (struct sockaddr *)&ss;
        net->policy.strict = *strict == '1';
        printf("%d %d\n", (int)fdl_addr_classify(sa),
               fdl_addr_allowed(sa, &net->policy,
                                class < 0 ? FDL_VIA_TYPED : FDL_VIA_LINKED,
                                (enum fdl_addr_class)(class < 0 ? 0 : class)));
    }
    fdl_net_free(net);
    return good;
}

int main(void)
{
    char line[4096];

    while (fgets(line, sizeof line, stdin))
        if (!judge(line))
            puts("bad");
    return 0;
}
