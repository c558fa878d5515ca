// SPDX-License-Identifier: Apache-2.0 OR MIT
// Ends a connection when one of the operator's byte patterns occurs in it, wherever segments cut it.
//
// What lies before the pattern has passed, the pattern itself does not. Only bytes that may be the beginning of a pattern
// are held back until more is there, at most PATTERN - 1 of them; they leave when the direction ends. Of patterns that
// overlap the one that ends first counts, of those that end together the first in the map.

#include <tidegate.h>

#define PATTERNS 8 /* entries of the map */
#define PATTERN 32 /* bytes of one pattern */

/* Where a pattern is looked for; bits. */
enum where {
    SENT = 1,
    RECEIVED = 2,
};

struct pattern {
    __u32 where; /* 0: the entry is free */
    __u32 size;  /* bytes of it, up to PATTERN */
    char bytes[PATTERN];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, PATTERNS);
    __type(key, __u32);
    __type(value, struct pattern);
} patterns SEC(".maps");

struct kill {
    __u32 pattern; /* its index */
    __u32 direction;
    __u64 flow_id;
};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 65536);
} kills SEC(".maps");

/* A pattern that was found. */
struct match {
    __u64 at;
    __u64 end; /* 0: none was */
    __u32 pattern;
};

static __always_inline int drop(struct tidegate_stream *ctx, __u32 pattern)
{
    struct kill *event = bpf_ringbuf_reserve(&kills, sizeof(*event), 0);

    if (event) {
        event->pattern = pattern;
        event->direction = ctx->direction;
        event->flow_id = ctx->flow_id;
        bpf_ringbuf_submit(event, 0);
    }
    return TIDEGATE_DROP_CONNECTION;
}

/* Bytes at the end of those shown with which `pattern` begins, the most; 0 when it begins with none. */
static __always_inline __u32 begun(struct tidegate_stream *ctx, __u64 shown, const struct pattern *pattern, __u32 size)
{
    for (__u32 count = PATTERN - 1; count; count--) {
        if (count < size && count <= shown && tidegate_find(ctx, shown - count, pattern->bytes, count) >= 0)
            return count;
    }
    return 0;
}

SEC("tidegate/stream")
int kill_on_pattern(struct tidegate_stream *ctx)
{
    __u64 shown = (char *)ctx->data_end - (char *)ctx->data;
    __u32 where = ctx->direction == TIDEGATE_OUTBOUND ? SENT : RECEIVED, held = 0;
    struct match match = {};

    if (shown == 0)
        return TIDEGATE_PERMIT;

    for (__u32 i = 0; i != PATTERNS; i++) {
        __u32 index = i, size, count;
        struct pattern *pattern = bpf_map_lookup_elem(&patterns, &index);
        long at;

        if (!pattern || !(pattern->where & where))
            continue;
        size = pattern->size;
        if (size == 0 || size > PATTERN)
            continue;
        at = tidegate_find(ctx, 0, pattern->bytes, size);
        if (at >= 0 && (!match.end || (__u64)at + size < match.end)) {
            match.at = at;
            match.end = (__u64)at + size;
            match.pattern = i;
        }
        count = begun(ctx, shown, pattern, size);
        if (count > held)
            held = count;
    }

    if (match.end && match.at == 0)
        return drop(ctx, match.pattern);
    if (match.end) {
        ctx->bytes_enforced = match.at;
    } else if (held && !(ctx->flags & TIDEGATE_STREAM_NO_MORE_DATA)) {
        if (held == shown)
            return TIDEGATE_NEED_MORE_DATA;
        ctx->bytes_enforced = shown - held;
    }
    return TIDEGATE_PERMIT;
}
