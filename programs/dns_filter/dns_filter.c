// SPDX-License-Identifier: Apache-2.0 OR MIT
// Blocks or rewrites DNS queries (RFC 1035) by the name that they ask for, on the way out over UDP.
//
// An entry "example.com" is about that name and every name below it; the longest entry that fits decides. Action 0 lets
// the query pass, 1 blocks it, 2 asks for the name `to` instead. Queries over TCP are a stream and not this policy's.

#include <tidegate.h>

#define NAME 64 /* bytes of a name in the list, zero-padded; a query for a longer name is blocked */
#define PORT 53

#define UDP_HEADER 8
#define DNS_HEADER 12
#define QNAME (UDP_HEADER + DNS_HEADER)

enum action {
    PASS = 0,
    BLOCK = 1,
    REWRITE = 2,
    ACTIONS,
};

struct rule {
    __u32 action;
    char to[NAME];
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, char[NAME]);
    __type(value, struct rule);
} rules SEC(".maps");

/* Queries by action. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, ACTIONS);
    __type(key, __u32);
    __type(value, __u64);
} counts SEC(".maps");

/* Room for a name and a key's worth of zeros behind it, so that every suffix of it is a zero-padded key as it lies. */
struct name {
    char bytes[2 * NAME];
};

static __always_inline void count(__u32 action)
{
    __u64 *value = bpf_map_lookup_elem(&counts, &action);

    if (value)
        *value += 1;
}

/*
 * Makes text of the labels in `name`: the byte with a label's length becomes a dot (so the text starts behind the first), and
 * what follows the name becomes zeros. Returns the bytes that the name takes on the wire, 0 when it is not a name of at most NAME
 * bytes, or when a label has a dot of its own: as text that would be another name.
 */
static __always_inline __u32 to_text(struct name *name)
{
    __u32 left = 0, size = 0;

    for (int i = 0; i < NAME; i++) {
        char c = name->bytes[i];

        if (size) {
            name->bytes[i] = 0;
        } else if (left) {
            left--;
            if (c == '.')
                return 0;
            if (c >= 'A' && c <= 'Z')
                name->bytes[i] = c + ('a' - 'A');
        } else if (c == 0) {
            size = i + 1;
        } else if ((c & 0xc0) != 0) {
            return 0;
        } else {
            name->bytes[i] = '.';
            left = c;
        }
    }
    return size;
}

static __always_inline struct rule *rule_for(struct name *name, __u32 size)
{
    for (__u32 i = 0; i < size; i++) {
        struct rule *rule;

        if (name->bytes[i] != '.')
            continue;
        rule = bpf_map_lookup_elem(&rules, name->bytes + i + 1);
        if (rule)
            return rule;
    }
    return 0;
}

/* Sends the query shown with the name in `to` in place of the `size` bytes of its own. */
static __always_inline int rewrite(struct tidegate_send *ctx, __u32 size, const char *to)
{
    char labels[NAME] = {};
    __u32 length = 0, count = 0;
    struct tidegate_clone *clone;

    /* From behind, so that each label's length is known where it is to be written. */
    for (int i = NAME - 2; i >= 0; i--) {
        char c = to[i];

        if (c == 0) {
            length = i;
            count = 0;
        } else if (c == '.') {
            labels[i + 1] = count;
            count = 0;
        } else {
            labels[i + 1] = c;
            count++;
        }
    }
    labels[0] = count;
    if (length == 0 || length > NAME - 2)
        return TIDEGATE_BLOCK;

    clone = tidegate_clone_net_buffer_list(ctx);
    if (!clone)
        return TIDEGATE_BLOCK;
    if (tidegate_clone_replace(clone, QNAME, size, labels, length + 2)) {
        tidegate_clone_discard(clone);
        return TIDEGATE_BLOCK;
    }
    tidegate_inject_transport_send(ctx, clone, 0);
    return TIDEGATE_BLOCK;
}

SEC("tidegate/send")
int dns_filter(struct tidegate_send *ctx)
{
    const __u8 *data = ctx->data, *end = ctx->data_end, *dns = data + UDP_HEADER;
    struct name name = {};
    __u32 size, room;
    struct rule *rule;

    if (ctx->protocol != IPPROTO_UDP || ctx->remote_port != PORT)
        return TIDEGATE_CONTINUE;

    /* A query (QR 0) with one question; anything else is not a client's and not ours. */
    if (data + QNAME > end)
        return TIDEGATE_BLOCK;
    if (dns[2] & 0x80)
        return TIDEGATE_CONTINUE;
    if (dns[4] != 0 || dns[5] != 1)
        return TIDEGATE_BLOCK;

    room = end - data - QNAME;
    if (room > NAME)
        room = NAME;
    if (tidegate_load_bytes(ctx, QNAME, name.bytes, room))
        return TIDEGATE_BLOCK;
    size = to_text(&name);
    if (size == 0 || size > room) {
        count(BLOCK);
        return TIDEGATE_BLOCK;
    }

    rule = rule_for(&name, size);
    if (!rule || rule->action == PASS) {
        count(PASS);
        return TIDEGATE_CONTINUE;
    }
    if (rule->action == REWRITE) {
        count(REWRITE);
        return rewrite(ctx, size, rule->to);
    }
    count(BLOCK);
    return TIDEGATE_BLOCK;
}
