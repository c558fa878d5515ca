// NAME: resets connections that this machine opens to a port on a list.

#include "tidegate.h"

// Ports that nobody may connect to; the value is yours to use.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 256);
    __type(key, __u32);
    __type(value, __u32);
} ports SEC(".maps");

SEC("tidegate/stream")
int NAME(struct tidegate_stream *ctx)
{
    __u32 port = ctx->remote_port;

    if (ctx->opener == TIDEGATE_OPENER_LOCAL && bpf_map_lookup_elem(&ports, &port))
        return TIDEGATE_DROP_CONNECTION;
    return TIDEGATE_CONTINUE;
}
