// SPDX-License-Identifier: Apache-2.0 OR MIT
// Lets so many bytes leave and no more: of a connection, of a program in an hour, and in an hour of what is not TCP.
//
// What is within the cap passes to the byte, then the connection is reset; a packet passes as a whole or not at all. Whose a
// packet is nobody says at that layer, so that all of them are on one account.

#include <tidegate.h>

#define HOUR 3600000000000ull
#define PATH 256 /* bytes of a program's path that tell it from others: 128 characters */
#define NO_CAP (1ull << 62) /* what nobody sends: no sum that is held against it is carried over */

/* Entries of `cap`. */
enum {
    CONNECTION = 0,
    PROGRAM = 1,
    NOT_TCP = 2,
};

/* Bytes that may leave; 0: any. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 3);
    __type(key, __u32);
    __type(value, __u64);
} cap SEC(".maps");

/* Bytes that each connection has sent. One that finds no room is reset: it could not be counted. */
struct {
    __uint(type, BPF_MAP_TYPE_FLOW_STORAGE);
    __uint(max_entries, 65536);
    __type(key, __u64);
    __type(value, __u64);
} sent SEC(".maps");

/* Who spends, and when: every hour begins with new accounts. */
struct account {
    __u32 hour; /* since the machine's start */
    __u32 by;   /* the entry of `cap` that it is held to */
    __u8 program[PATH]; /* its path in UTF-16; zeros when it is not known */
};

/* Bytes that each account has spent. What is forgotten is the one not used for longest. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct account);
    __type(value, __u64);
} spent SEC(".maps");

struct refusal {
    __u32 by; /* the entry of `cap` that was reached */
    __u64 process_id;
    __u64 flow_id;
};

/* Connections that were reset. */
struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 65536);
} refused SEC(".maps");

/* 0: there is no cap. */
static __always_inline __u64 most_of(__u32 by)
{
    const __u64 *most = bpf_map_lookup_elem(&cap, &by);

    return most && *most < NO_CAP ? *most : 0;
}

/* What an account has spent; NULL when there is no room for it. */
static __always_inline __u64 *spent_of(const struct account *account)
{
    __u64 *bytes = bpf_map_lookup_elem(&spent, account), none = 0;

    if (bytes)
        return bytes;
    /* If another processor counts for it too, the first of both makes it. */
    bpf_map_update_elem(&spent, account, &none, BPF_NOEXIST);
    return bpf_map_lookup_elem(&spent, account);
}

/*
 * Takes `size` bytes of what is left, or as many as there are, and returns how many. What is given back may have been refused
 * to another processor in between; never do more bytes leave.
 */
static __always_inline __u64 spend(__u64 *bytes, __u64 size, __u64 most)
{
    __u64 before = __sync_fetch_and_add(bytes, size), left = before < most ? most - before : 0;
    __u64 passes = size < left ? size : left;

    if (passes < size)
        __sync_fetch_and_sub(bytes, size - passes);
    return passes;
}

static __always_inline int refuse(const struct tidegate_stream *ctx, __u32 by)
{
    struct refusal *event = bpf_ringbuf_reserve(&refused, sizeof(*event), 0);

    if (event) {
        event->by = by;
        event->process_id = ctx->process_id;
        event->flow_id = ctx->flow_id;
        bpf_ringbuf_submit(event, 0);
    }
    return TIDEGATE_DROP_CONNECTION;
}

SEC("tidegate/stream")
int exfil_cap(struct tidegate_stream *ctx)
{
    __u64 passes = ctx->data_end - ctx->data, most = most_of(CONNECTION), *counted = NULL;

    if (ctx->direction != TIDEGATE_OUTBOUND || !passes)
        return TIDEGATE_PERMIT;
    if (most) {
        counted = tidegate_flow_storage_get(ctx, &sent, 1);
        if (!counted || *counted >= most)
            return refuse(ctx, CONNECTION);
        if (passes > most - *counted)
            passes = most - *counted;
    }
    most = most_of(PROGRAM);
    if (most) {
        struct account account = { .hour = bpf_ktime_get_ns() / HOUR, .by = PROGRAM };
        __u64 *bytes;

        tidegate_stream_application(ctx, account.program, sizeof(account.program));
        bytes = spent_of(&account);
        if (!bytes)
            return refuse(ctx, PROGRAM);
        passes = spend(bytes, passes, most);
        if (!passes)
            return refuse(ctx, PROGRAM);
    }
    if (counted)
        *counted += passes;
    ctx->bytes_enforced = passes;
    return TIDEGATE_PERMIT;
}

SEC("tidegate/send")
int exfil_cap_not_tcp(struct tidegate_send *ctx)
{
    struct account account = { .hour = bpf_ktime_get_ns() / HOUR, .by = NOT_TCP };
    __u64 size = ctx->data_end - ctx->data, most = most_of(NOT_TCP), passes, *bytes;

    if (ctx->protocol == IPPROTO_TCP || !most)
        return TIDEGATE_CONTINUE;
    bytes = spent_of(&account);
    if (!bytes)
        return TIDEGATE_BLOCK;
    passes = spend(bytes, size, most);
    if (passes == size)
        return TIDEGATE_CONTINUE;
    __sync_fetch_and_sub(bytes, passes);
    return TIDEGATE_BLOCK;
}
