#include <tidegate.h>

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 4);
    __type(key, __u32);
    __type(value, __u64);
} counts SEC(".maps");

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    /* A number is no address, whatever it is cast to. */
    __u64 *count = (__u64 *)ctx->flow_id;

    return *count > 100 ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
