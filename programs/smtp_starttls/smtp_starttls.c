// SPDX-License-Identifier: Apache-2.0 OR MIT
// Lets no mail and no password be sent over SMTP before TLS (RFC 3207), whether or not the server offers it.
//
// What a client says is looked at line by line until TLS begins: greetings, STARTTLS and what says nothing pass, anything else
// ends the connection. So does a client that goes on without TLS because STARTTLS was refused, or taken out on the way.

#include <tidegate.h>

#define LINE 512       /* bytes of the longest line, with its end (RFC 5321 section 4.5.3.1.4) */
#define HANDSHAKE 0x16 /* first byte of TLS, and of no command */
#define TO_UPPER 0xdf  /* of a letter */

/* Ports of servers that must be spoken to over TLS: 25, 587. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 64);
    __type(key, __u16);
    __type(value, __u32);
} ports SEC(".maps");

/* Of each connection: whether the client has asked for TLS. */
struct {
    __uint(type, BPF_MAP_TYPE_FLOW_STORAGE);
    __uint(max_entries, 65536);
    __type(key, __u64);
    __type(value, __u32);
} asked SEC(".maps");

/* Whether a whole line, of which at least two bytes are its end, begins with a word of `size` letters. */
static __always_inline int is_word(const __u8 *line, const __u8 *end, const char *word, __u32 size)
{
    if (line + size + 2 > end)
        return 0;
    for (__u32 i = 0; i < size; i++) {
        if ((line[i] & TO_UPPER) != word[i])
            return 0;
    }
    return line[size] == ' ' || line[size] == '\r';
}

SEC("tidegate/stream")
int smtp_starttls(struct tidegate_stream *ctx)
{
    const __u8 *data = ctx->data, *end = ctx->data_end;
    __u16 port = ctx->opener == TIDEGATE_OPENER_LOCAL ? ctx->remote_port : ctx->local_port;
    __u64 size = end - data;
    __u32 *tls;
    long line_end;

    if (!bpf_map_lookup_elem(&ports, &port) || ctx->flags & TIDEGATE_STREAM_MID_STREAM)
        return TIDEGATE_ALLOW_CONNECTION;
    /* The server's side: a direction is numbered as the side that opened it. */
    if (ctx->direction != ctx->opener || data + 1 > end)
        return TIDEGATE_PERMIT;
    tls = tidegate_flow_storage_get(ctx, &asked, 1);
    if (!tls || ctx->missed_bytes)
        return TIDEGATE_DROP_CONNECTION;
    if (*tls && data[0] == HANDSHAKE)
        return TIDEGATE_ALLOW_CONNECTION;

    line_end = tidegate_find(ctx, 0, "\r", 1);
    if (line_end >= LINE - 1)
        return TIDEGATE_DROP_CONNECTION;
    if (line_end < 0 || line_end + 1 == size) {
        if (size >= LINE || ctx->flags & (TIDEGATE_STREAM_NO_MORE_DATA | TIDEGATE_STREAM_DISCONNECT))
            return TIDEGATE_DROP_CONNECTION;
        return TIDEGATE_NEED_MORE_DATA;
    }
    /* A return that is no line's end: servers don't agree where the next command begins. */
    if (tidegate_find(ctx, 0, "\n", 1) != line_end + 1)
        return TIDEGATE_DROP_CONNECTION;
    if (is_word(data, end, "STARTTLS", 8))
        *tls = 1;
    else if (!is_word(data, end, "EHLO", 4) && !is_word(data, end, "HELO", 4) && !is_word(data, end, "NOOP", 4) &&
             !is_word(data, end, "RSET", 4) && !is_word(data, end, "QUIT", 4))
        return TIDEGATE_DROP_CONNECTION;
    ctx->bytes_enforced = line_end + 2;
    return TIDEGATE_PERMIT;
}
