// SPDX-License-Identifier: Apache-2.0 OR MIT
// Asks for names of one domain in place of those of another (RFC 1035), on the way out over UDP.
//
// The end of a query's name that an entry fits is replaced, the longest that one fits; the labels before it, in the case that
// they have, and all else of the query stay: its id, its flags, what it asks for, its EDNS options (RFC 6891).

#include <tidegate.h>

#define PORT 53
#define WIRE 255  /* bytes of the longest name in a message */
#define DOMAIN 64 /* bytes of the longest in the map */

#define UDP_HEADER 8
#define DNS_HEADER 12
#define QNAME (UDP_HEADER + DNS_HEADER)
#define QUESTION 4 /* bytes behind the name: its type and class */
#define OPT 41     /* type of the record that carries EDNS options; its name is the root */

#define QR_OPCODE 0xf8 /* of the first byte of flags: zero in a query */
#define NO_LABEL 0xc0  /* of the byte before a label: set where a name goes on elsewhere (compression) */

/* A name as it is in messages: labels with their lengths, zeros behind them. */
struct domain {
    __u8 labels[DOMAIN];
};

struct rule {
    __u64 queries; /* that were changed; begin with 0 */
    struct domain to;
};

/* By the domain, in lower case. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, struct domain);
    __type(value, struct rule);
} rules SEC(".maps");

/* Room for a name and a key's worth of zeros, so that each end of it is a key as it lies. */
struct name {
    __u8 bytes[WIRE + DOMAIN];
};

/* Bytes of the name at `labels`, which may go on to `end`, and be `most` bytes long; 0 where there is none. */
static __always_inline __u32 size_of(const __u8 *labels, const __u8 *end, __u32 most)
{
    __u32 left = 0;

    for (__u32 i = 0; i < most; i++) {
        const __u8 *at = labels + i;

        if (at + 1 > end)
            return 0;
        if (left) {
            left--;
            continue;
        }
        if (*at & NO_LABEL)
            return 0;
        left = *at;
        if (left == 0)
            return i + 1;
    }
    return 0;
}

/* The same of a domain of the map. */
static __always_inline __u32 size_of_domain(const struct domain *domain)
{
    __u32 left = 0;

    for (__u32 i = 0; i < DOMAIN; i++) {
        if (left) {
            left--;
            continue;
        }
        left = domain->labels[i];
        if (left == 0)
            return i + 1;
    }
    return 0;
}

/* Whether nothing has a name that may go on in the question's: no records but EDNS options, `behind` so many bytes. */
static __always_inline int is_alone(const struct tidegate_send *ctx, const __u8 *dns, __u32 behind)
{
    const __u8 *more = (const __u8 *)ctx->data + behind, *end = ctx->data_end;

    if (dns[6] | dns[7] | dns[8] | dns[9] | dns[10])
        return 0;
    return dns[11] == 0 || (dns[11] == 1 && more + 3 <= end && more[0] == 0 && more[1] == 0 && more[2] == OPT);
}

SEC("tidegate/send")
int dns_rewrite(struct tidegate_send *ctx)
{
    const __u8 *data = ctx->data, *end = ctx->data_end, *dns = data + UDP_HEADER;
    struct name name = {};
    struct rule *rule = NULL;
    __u32 size, new_size, at, left = 0;

    if (ctx->protocol != IPPROTO_UDP || ctx->remote_port != PORT || ctx->flags & TIDEGATE_SEND_RAW)
        return TIDEGATE_CONTINUE;
    if (data + QNAME > end)
        return TIDEGATE_BLOCK;
    if (dns[2] & QR_OPCODE)
        return TIDEGATE_CONTINUE;
    if (dns[4] != 0 || dns[5] != 1)
        return TIDEGATE_BLOCK;
    size = size_of(data + QNAME, end, WIRE);
    if (size == 0 || tidegate_load_bytes(ctx, QNAME, name.bytes, size))
        return TIDEGATE_BLOCK;

    /* A length is less than any letter. */
    for (__u32 i = 0; i < WIRE; i++) {
        if (name.bytes[i] >= 'A' && name.bytes[i] <= 'Z')
            name.bytes[i] += 'a' - 'A';
    }
    for (at = 0; at < WIRE; at++) {
        if (left) {
            left--;
            continue;
        }
        left = name.bytes[at];
        if (left == 0)
            return TIDEGATE_CONTINUE;
        rule = bpf_map_lookup_elem(&rules, name.bytes + at);
        if (rule)
            break;
    }
    if (!rule)
        return TIDEGATE_CONTINUE;

    new_size = size_of_domain(&rule->to);
    if (new_size == 0 || at + new_size > WIRE || !is_alone(ctx, dns, QNAME + size + QUESTION))
        return TIDEGATE_BLOCK;
    if (tidegate_replace(ctx, QNAME + at, size - at, rule->to.labels, new_size))
        return TIDEGATE_BLOCK;
    __sync_fetch_and_add(&rule->queries, 1);
    return TIDEGATE_CONTINUE;
}
