// SPDX-License-Identifier: Apache-2.0 OR MIT
// Lets a TLS connection through only when the name that its client asks for (SNI, RFC 6066 section 3) is on a list.
//
// An entry "example.com" allows that name and every name below it. A ClientHello without a name, one that is not whole
// in its first record, and one that can't be parsed are refused: what can't be judged does not pass. Connections that
// don't start like TLS are not this policy's business.

#include <tidegate.h>

#define NAME 64 /* bytes of a name in the list, zero-padded; longer names are matched by their last 63 bytes */
#define EXTENSIONS 64

#define RECORD_HANDSHAKE 22
#define CLIENT_HELLO 1
#define EXTENSION_SERVER_NAME 0

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, char[NAME]);
    __type(value, __u32);
} allowed SEC(".maps");

struct refusal {
    char name[NAME]; /* empty: there was none */
    __u64 flow_id;
};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 65536);
} refused SEC(".maps");

/* Room for a name and a key's worth of zeros behind it, so that every suffix of it is a zero-padded key as it lies. */
struct name {
    char bytes[2 * NAME];
};

static __always_inline int drop(struct tidegate_stream *ctx, const char *name)
{
    struct refusal *event = bpf_ringbuf_reserve(&refused, sizeof(*event), 0);

    if (event) {
        event->flow_id = ctx->flow_id;
        if (name)
            __builtin_memcpy(event->name, name, NAME);
        bpf_ringbuf_submit(event, 0);
    }
    return TIDEGATE_DROP_CONNECTION;
}

/* Names in DNS know no case (RFC 4343); the list is in lower case. */
static __always_inline void to_lower(struct name *name)
{
    for (int i = 0; i < NAME - 1; i++) {
        char c = name->bytes[i];

        if (c >= 'A' && c <= 'Z')
            name->bytes[i] = c + ('a' - 'A');
    }
}

static __always_inline int is_allowed(struct name *name, int whole)
{
    if (whole && bpf_map_lookup_elem(&allowed, name->bytes))
        return 1;
    for (int i = 0; i < NAME - 1; i++) {
        if (name->bytes[i] == '.' && bpf_map_lookup_elem(&allowed, name->bytes + i + 1))
            return 1;
    }
    return 0;
}

SEC("tidegate/stream")
int tls_sni_allow(struct tidegate_stream *ctx)
{
    const __u8 *data = ctx->data, *end = ctx->data_end, *p = data;
    struct name name = {};
    __u32 length, skip;

    /* The client speaks first, and only what this machine asks for is judged. */
    if (ctx->opener != TIDEGATE_OUTBOUND)
        return TIDEGATE_ALLOW_CONNECTION;
    if (ctx->direction != TIDEGATE_OUTBOUND || data == end)
        return TIDEGATE_PERMIT;
    if (ctx->missed_bytes)
        return drop(ctx, 0);
    if (*p != RECORD_HANDSHAKE)
        return TIDEGATE_ALLOW_CONNECTION;

    /* Record: type, version (2), length (2). */
    if (p + 5 > end)
        goto more;
    length = p[3] << 8 | p[4];
    p += 5;
    if (p + length > end)
        goto more;

    /* Handshake: type, length (3); ClientHello: version (2), random (32), session id (1 + n). */
    if (length < 39 || p + 39 > end)
        return drop(ctx, 0);
    if (p[0] != CLIENT_HELLO || (p[1] << 16 | p[2] << 8 | p[3]) + 4 > length)
        return drop(ctx, 0);
    p += 39 + p[38];

    /* Cipher suites (2 + n), compression methods (1 + n), length of the extensions (2). */
    if (p + 2 > end)
        return drop(ctx, 0);
    skip = p[0] << 8 | p[1];
    p += 2 + skip;
    if (p + 1 > end)
        return drop(ctx, 0);
    p += 1 + p[0] + 2;

    for (int i = 0; i < EXTENSIONS; i++) {
        __u32 type, size, at, from;

        /* Extension: type (2), length (2). */
        if (p + 4 > end)
            break;
        type = p[0] << 8 | p[1];
        size = p[2] << 8 | p[3];
        p += 4;
        if (type != EXTENSION_SERVER_NAME) {
            p += size;
            continue;
        }

        /* Server name list: length (2); of its one entry: type (1, 0 is a host name), length (2), the name. */
        if (p + 5 > end || p[2] != 0)
            break;
        size = p[3] << 8 | p[4];
        at = (__u32)(p - data) + 5;
        if (size == 0 || size > 255)
            break;
        from = size > NAME - 1 ? size - (NAME - 1) : 0;
        if (tidegate_load_bytes(ctx, at + from, name.bytes, size - from))
            break;
        to_lower(&name);
        if (is_allowed(&name, from == 0))
            return TIDEGATE_ALLOW_CONNECTION;
        return drop(ctx, name.bytes);
    }
    return drop(ctx, 0);

more:
    if (ctx->flags & TIDEGATE_STREAM_NO_MORE_DATA)
        return drop(ctx, 0);
    return TIDEGATE_NEED_MORE_DATA;
}
