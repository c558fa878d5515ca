#include <tidegate.h>

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 4096);
} events SEC(".maps");

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    __u64 *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

    if (!event)
        return TIDEGATE_PERMIT;
    if (ctx->remote_port != 443) {
        bpf_ringbuf_discard(event, 0);
        return TIDEGATE_PERMIT;
    }
    *event = ctx->flow_id;
    bpf_ringbuf_submit(event, 0);
    return TIDEGATE_PERMIT;
}
