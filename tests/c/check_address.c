/* SPDX-License-Identifier: Apache-2.0 */
/* check_address.c - a driver for the twin test: the C check's verdict for addresses on
 * stdin.
 *
 *   ADDRESS STRICT FROM [CIDR…] [nfs CIDR…]    STRICT: 0 or 1;  FROM: class number of
 * the host that led here, -1 where the address was typed;  behind `nfs` stand the NFS
 * servers. Answer: "CLASS ALLOWED NFS" text HOST  answer: class number of what it
 * spells, "name" or "unusual" port N     answer: 1 where a link may lead there
 *
 * One answer per line, "bad" where the line is not understood. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/net.h"

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

static bool check_text(const char *host)
{
    struct sockaddr_storage ss;
    enum fdl_addr_text kind = host ? fdl_addr_from_text(host, &ss) : FDL_ADDR_IS_NAME;

    if (kind == FDL_ADDR_IS_LITERAL)
        printf("%d\n", (int)fdl_addr_classify((struct sockaddr *)&ss));
    else
        puts(kind == FDL_ADDR_IS_NAME ? "name" : "unusual");
    return host != NULL;
}

static bool check_address(struct fdl_net *net, const char *address, char **rest)
{
    struct sockaddr_storage ss;
    struct sockaddr *sa = (struct sockaddr *)&ss;
    char *strict = strtok_r(NULL, " \n", rest), *from = strtok_r(NULL, " \n", rest),
         *word;
    bool good = net && strict && from && parse(address, &ss), nfs = false;
    int class = -1;

    if (good)
        good = sscanf(from, "%d", &class) == 1;
    while (good && (word = strtok_r(NULL, " \n", rest)) != NULL) {
        if (strcmp(word, "nfs") == 0)
            nfs = true;
        else
            good = (nfs ? fdl_net_allow_nfs : fdl_net_allow_cidr)(net, word, NULL) ==
                   FDL_OK;
    }
    if (!good)
        return false;
    enum fdl_addr_via via = class < 0 ? FDL_VIA_TYPED : FDL_VIA_LINKED;
    enum fdl_addr_class leader = (enum fdl_addr_class)(class < 0 ? 0 : class);
    net->policy.strict = *strict == '1';
    printf("%d %d %d\n", (int)fdl_addr_classify(sa),
           fdl_addr_allowed(sa, &net->policy, via, leader),
           fdl_addr_allowed_nfs(sa, &net->policy, via, leader));
    return true;
}

static bool check(char *line)
{
    char *rest = NULL, *first = strtok_r(line, " \n", &rest);

    if (first && strcmp(first, "text") == 0)
        return check_text(strtok_r(NULL, " \n", &rest));
    if (first && strcmp(first, "port") == 0) {
        char *port = strtok_r(NULL, " \n", &rest);
        if (port)
            printf("%d\n", fdl_addr_hop_port((uint16_t)strtoul(port, NULL, 10)));
        return port != NULL;
    }
    struct fdl_net *net = fdl_net_new();
    bool good = first && check_address(net, first, &rest);
    fdl_net_free(net);
    return good;
}

int main(void)
{
    char line[4096];

    while (fgets(line, sizeof line, stdin))
        if (!check(line))
            puts("bad");
    return 0;
}
