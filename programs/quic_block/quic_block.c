// SPDX-License-Identifier: Apache-2.0 OR MIT
// Keeps QUIC connections from being opened (RFC 9000, RFC 8999), so that clients fall back to TCP, where policies see names.
//
// Packets with a long header, by which every version opens its connections, don't leave for the ports of the map. Short
// headers pass: they belong to connections that began before.

#include <tidegate.h>

#define UDP_HEADER 8
#define LONG_HEADER 5 /* bytes that packets with a long header share in all versions: flags and the version */
#define FORM 0x80     /* of the flags: the header is a long one */

/* Remote ports at which QUIC is blocked, and how many packets were. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 64);
    __type(key, __u16);
    __type(value, __u64);
} ports SEC(".maps");

SEC("tidegate/send")
int quic_block(struct tidegate_send *ctx)
{
    const __u8 *data = ctx->data, *end = ctx->data_end, *quic = data + UDP_HEADER;
    __u16 port = ctx->remote_port;
    __u64 *blocked;

    if (ctx->protocol != IPPROTO_UDP || ctx->flags & TIDEGATE_SEND_RAW)
        return TIDEGATE_CONTINUE;
    blocked = bpf_map_lookup_elem(&ports, &port);
    if (!blocked)
        return TIDEGATE_CONTINUE;
    if (quic + LONG_HEADER > end || !(quic[0] & FORM))
        return TIDEGATE_CONTINUE;
    /* Version 0: a server's answer to a version that it does not know (version negotiation). */
    if (!(quic[1] | quic[2] | quic[3] | quic[4]))
        return TIDEGATE_CONTINUE;
    __sync_fetch_and_add(blocked, 1);
    return TIDEGATE_BLOCK;
}
