// SPDX-License-Identifier: Apache-2.0 OR MIT
// Tells when one of the operator's planted strings goes by: in either direction of a connection, or in a datagram.
//
// The last bytes of a direction, as many as a token has, go through a hash at every byte. So the cost is that of the bytes and not
// of the tokens, cuts make no difference, and nothing has to be kept back.

#include <tidegate.h>

#define TOKEN 16    /* bytes of a token */
#define ROOM 65536  /* tokens, and connections that are looked at over their cuts */
#define BYTES 2048  /* bytes that one run looks at: a connection shows the rest again, a datagram does not */

/* Tokens, and what the operator knows each of them by. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, ROOM);
    __type(key, char[TOKEN]);
    __type(value, __u32);
} tokens SEC(".maps");

/* The last bytes, the first of them lowest. Zeros stand for those that were not there yet. */
struct last {
    __u64 older, newer;
};

/* Of each connection: the last bytes of both directions. One that finds no room is looked at piece by piece. */
struct {
    __uint(type, BPF_MAP_TYPE_FLOW_STORAGE);
    __uint(max_entries, ROOM);
    __type(key, __u64);
    __type(value, struct last[2]);
} lasts SEC(".maps");

struct sighting {
    __u32 token;
    __u32 direction;
    __u64 process_id;
    __u64 flow_id;
};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 65536);
} sightings SEC(".maps");

static __always_inline void tell(__u32 token, __u32 direction, __u64 process_id, __u64 flow_id)
{
    struct sighting *event = bpf_ringbuf_reserve(&sightings, sizeof(*event), 0);

    if (!event)
        return;
    event->token = token;
    event->direction = direction;
    event->process_id = process_id;
    event->flow_id = flow_id;
    bpf_ringbuf_submit(event, 0);
}

/* Goes on to the end of the next token, or of what one run looks at. Bytes that were looked at. */
static __always_inline __u32 look(struct last *last, const __u8 *data, const __u8 *end, const __u32 **token)
{
    __u32 at = 0;

    *token = NULL;
    while (at < BYTES && data + at < end && !*token) {
        last->older = last->older >> 8 | last->newer << 56;
        last->newer = last->newer >> 8 | (__u64)data[at] << 56;
        *token = bpf_map_lookup_elem(&tokens, last);
        at++;
    }
    return at;
}

SEC("tidegate/stream")
int canary_token_stream(struct tidegate_stream *ctx)
{
    struct last *known = tidegate_flow_storage_get(ctx, &lasts, 1), last = {};
    const __u32 *token;

    if (known)
        known += ctx->direction & TIDEGATE_INBOUND;
    /* What lies on both sides of bytes that were missed is not together. */
    if (known && !ctx->missed_bytes)
        last = *known;
    ctx->bytes_enforced = look(&last, ctx->data, ctx->data_end, &token);
    if (known)
        *known = last;
    if (token)
        tell(*token, ctx->direction, ctx->process_id, ctx->flow_id);
    return TIDEGATE_CONTINUE;
}

SEC("tidegate/send")
int canary_token_datagram(struct tidegate_send *ctx)
{
    struct last last = {};
    const __u32 *token;

    /* A connection is looked at as one. */
    if (ctx->protocol == IPPROTO_TCP)
        return TIDEGATE_CONTINUE;
    look(&last, ctx->data, ctx->data_end, &token);
    if (token)
        tell(*token, TIDEGATE_OUTBOUND, ctx->process_id, ctx->flow_id);
    return TIDEGATE_CONTINUE;
}
