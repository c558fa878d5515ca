#include <tidegate.h>

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 4);
    __type(key, __u32);
    __type(value, __u64);
} flows SEC(".maps");

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    __u32 key = 0;
    __u64 flow = ctx->flow_id;

    bpf_map_update_elem(&flows, &key, &flow, ctx->flags);
    return TIDEGATE_PERMIT;
}
