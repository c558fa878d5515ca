#include <tidegate.h>

struct counter {
    __u32 kind;
    __u64 count;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 4);
    __type(key, __u32);
    __type(value, struct counter);
} counters SEC(".maps");

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    __u32 key = 0;
    struct counter *counter = bpf_map_lookup_elem(&counters, &key);

    if (counter)
        __sync_fetch_and_add(&counter->count, 1);
    return TIDEGATE_PERMIT;
}
