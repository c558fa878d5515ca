#include <tidegate.h>

struct table {
    __u8 verdicts[16];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 4);
    __type(key, __u32);
    __type(value, struct table);
} tables SEC(".maps");

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    __u32 key = 0, port = ctx->local_port;
    struct table *table = bpf_map_lookup_elem(&tables, &key);

    return table && port < 16 && table->verdicts[port] ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
