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
    __u32 key = 0;
    __u64 *count = bpf_map_lookup_elem(&counts, &key);

    if (count)
        *count += 1;
    return TIDEGATE_PERMIT;
}
