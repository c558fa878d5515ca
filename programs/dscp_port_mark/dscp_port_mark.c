// SPDX-License-Identifier: Apache-2.0 OR MIT
// Marks what is sent to some UDP ports for the routers on its way (DSCP, RFC 2474), and moves it to another port.
//
// A packet has no IP header yet when it is shown: its type of service goes to the stack beside it. What leaves changed is
// injected and not shown again, so a port that something was moved to is not looked up in its turn.

#include <tidegate.h>

#define DSCPS 64     /* code points; a mark with another one leaves the sender's as it is */
#define DSCP_SHIFT 2 /* below them lie the two bits of ECN (RFC 3168), zero: not supported */

struct mark {
    __u64 packets; /* changed; begin with 0 */
    __u16 port;    /* where they go instead; 0: the same */
    __u8 dscp;
};

/* By the remote port that the sender chose. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, __u16);
    __type(value, struct mark);
} marks SEC(".maps");

SEC("tidegate/send")
int dscp_port_mark(struct tidegate_send *ctx)
{
    __u16 port = ctx->remote_port;
    struct mark *mark;

    if (ctx->protocol != IPPROTO_UDP || ctx->flags & TIDEGATE_SEND_RAW)
        return TIDEGATE_CONTINUE;
    mark = bpf_map_lookup_elem(&marks, &port);
    if (!mark)
        return TIDEGATE_CONTINUE;
    if (mark->dscp < DSCPS && tidegate_set_tos(ctx, mark->dscp << DSCP_SHIFT))
        return TIDEGATE_BLOCK;
    if (mark->port && tidegate_set_remote(ctx, ctx->remote_addr, ctx->family == 4 ? 4 : 16, mark->port))
        return TIDEGATE_BLOCK;
    __sync_fetch_and_add(&mark->packets, 1);
    return TIDEGATE_CONTINUE;
}
