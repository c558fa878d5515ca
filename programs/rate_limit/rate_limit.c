// SPDX-License-Identifier: Apache-2.0 OR MIT
// Keeps what a flow sends to so many bytes a second: each has a bucket of tokens of its own, and what finds too few is dropped.
//
// A bucket is one number, the time at which it is full again; tokens come by themselves as time passes. So a flow that was
// silent for a day has a full bucket and no more, and processors that send for one flow at once only ever add to it.
//
// Windows does not say whose a packet is. It says whose a connection is: a second program, at the stream layer, keeps that by
// socket for the first one, which sees a connection's bytes later.

#include <tidegate.h>

#define SECOND 1000000000ull
#define FLOWS 65536 /* that have a bucket, and sockets whose process is known */

/* What tells flows apart, as bits of `by`. None: all that is sent is one flow. */
enum by {
    LOCAL = 1, /* the socket: address, port and protocol */
    REMOTE_ADDRESS = 2,
    REMOTE_PORT = 4,
    PROCESS = 8, /* of packets whose process is not known: the socket */
};

/* What a flow may send. Bytes are those of packets without their IP header. */
struct limit {
    __u32 rate;  /* bytes a second; 0: any */
    __u32 burst; /* bytes at once: what a bucket holds; larger packets never pass */
    __u32 by;
};

struct flow {
    __u64 process_id;
    __u8 local_addr[16], remote_addr[16];
    __u16 local_port, remote_port;
    __u32 protocol;
};

/* At 0: what each flow may send. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct limit);
} limits SEC(".maps");

/* When the bucket of a flow is full. One that is forgotten, the one not used for longest, begins again with a full one. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, FLOWS);
    __type(key, struct flow);
    __type(value, __u64);
} buckets SEC(".maps");

/* This machine's end of a connection. */
struct socket {
    __u8 addr[16];
    __u32 port;
};

/* The process that owns it. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, FLOWS);
    __type(key, struct socket);
    __type(value, __u64);
} owners SEC(".maps");

enum fate {
    PASSED = 0,
    DROPPED = 1,
    FREE = 2,
    UNOWNED = 3,
};

/* Packets by what became of them, and those whose process was asked for and is not known. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 4);
    __type(key, __u32);
    __type(value, __u64);
} counts SEC(".maps");

static __always_inline void count(__u32 fate)
{
    __u64 *packets = bpf_map_lookup_elem(&counts, &fate);

    if (packets)
        *packets += 1;
}

static __always_inline struct socket socket_of(const __u8 *addr, __u16 port)
{
    struct socket socket = { .port = port };

    __builtin_memcpy(socket.addr, addr, sizeof(socket.addr));
    return socket;
}

/* The process that sends a packet; 0 when it is not known. */
static __always_inline __u64 process_of(const struct tidegate_send *ctx)
{
    struct socket socket = socket_of(ctx->local_addr, ctx->local_port);
    const __u64 *owner = NULL;

    if (ctx->process_id)
        return ctx->process_id;
    if (ctx->protocol == IPPROTO_TCP)
        owner = bpf_map_lookup_elem(&owners, &socket);
    return owner ? *owner : 0;
}

static __always_inline __u64 *bucket_of(const struct tidegate_send *ctx, __u32 by, __u64 now)
{
    struct flow flow = {};
    __u64 *bucket;

    if (by & PROCESS) {
        flow.process_id = process_of(ctx);
        if (!flow.process_id) {
            count(UNOWNED);
            by |= LOCAL;
        }
    }
    if (by & LOCAL) {
        __builtin_memcpy(flow.local_addr, ctx->local_addr, sizeof(flow.local_addr));
        flow.local_port = ctx->local_port;
        flow.protocol = ctx->protocol;
    }
    if (by & REMOTE_ADDRESS)
        __builtin_memcpy(flow.remote_addr, ctx->remote_addr, sizeof(flow.remote_addr));
    if (by & REMOTE_PORT)
        flow.remote_port = ctx->remote_port;
    bucket = bpf_map_lookup_elem(&buckets, &flow);
    if (bucket)
        return bucket;
    /* If another processor sends for it too, the first of both makes it. */
    bpf_map_update_elem(&buckets, &flow, &now, BPF_NOEXIST);
    return bpf_map_lookup_elem(&buckets, &flow);
}

/* Takes a packet's tokens; whether there were too few. All in nanoseconds: that they take to come, and that fill a bucket. */
static __always_inline int lacks(__u64 *bucket, __u64 cost, __u64 depth, __u64 now)
{
    __u64 full_at = *bucket;
    int lacks;

    /* Full since then. Where another processor was here first, it is said. */
    if (full_at < now)
        __sync_val_compare_and_swap(bucket, full_at, now);
    lacks = __sync_fetch_and_add(bucket, cost) + cost > now + depth;
    if (lacks)
        __sync_fetch_and_sub(bucket, cost);
    return lacks;
}

/* Keeps whose a connection is. */
SEC("tidegate/stream")
int rate_limit_owners(struct tidegate_stream *ctx)
{
    struct socket socket = socket_of(ctx->local_addr, ctx->local_port);
    const __u64 *owner = bpf_map_lookup_elem(&owners, &socket);
    __u64 process_id = ctx->process_id;

    if (process_id && (!owner || *owner != process_id))
        bpf_map_update_elem(&owners, &socket, &process_id, BPF_ANY);
    return TIDEGATE_CONTINUE;
}

SEC("tidegate/send")
int rate_limit(struct tidegate_send *ctx)
{
    __u64 size = ctx->data_end - ctx->data, now = bpf_ktime_get_ns(), *bucket;
    __u32 zero = 0;
    const struct limit *limit = bpf_map_lookup_elem(&limits, &zero);

    if (!limit || limit->rate == 0)
        return TIDEGATE_CONTINUE;
    /* TCP's acknowledgements carry nothing and are what the other direction waits for; so are its beginnings and ends. */
    if (ctx->protocol == IPPROTO_TCP && size == ctx->header_size) {
        count(FREE);
        return TIDEGATE_CONTINUE;
    }
    bucket = bucket_of(ctx, limit->by, now);
    if (!bucket)
        return TIDEGATE_BLOCK;
    /* 32 bits of bytes: no product is carried over. */
    if (lacks(bucket, size * SECOND / limit->rate, limit->burst * SECOND / limit->rate, now)) {
        count(DROPPED);
        return TIDEGATE_BLOCK;
    }
    count(PASSED);
    return TIDEGATE_CONTINUE;
}
