// NAME: does not send UDP packets to a port on a list.

#include "tidegate.h"

// Ports that nobody may send to; the value is yours to use.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 256);
    __type(key, __u32);
    __type(value, __u32);
} ports SEC(".maps");

SEC("tidegate/send")
int NAME(struct tidegate_send *ctx)
{
    __u32 port = ctx->remote_port;

    if (ctx->protocol == IPPROTO_UDP && bpf_map_lookup_elem(&ports, &port))
        return TIDEGATE_BLOCK;
    return TIDEGATE_CONTINUE;
}
