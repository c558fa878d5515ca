#include <tidegate.h>

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 4096);
} events SEC(".maps");

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    __u64 *a = bpf_ringbuf_reserve(&events, 8, 0);
    __u64 *b = bpf_ringbuf_reserve(&events, 8, 0);
    __u64 *c = bpf_ringbuf_reserve(&events, 8, 0);
    __u64 *d = bpf_ringbuf_reserve(&events, 8, 0);
    __u64 *e = bpf_ringbuf_reserve(&events, 8, 0);
    __u64 *f = bpf_ringbuf_reserve(&events, 8, 0);
    __u64 *g = bpf_ringbuf_reserve(&events, 8, 0);
    __u64 *h = bpf_ringbuf_reserve(&events, 8, 0);
    __u64 *i = bpf_ringbuf_reserve(&events, 8, 0);

    if (a)
        bpf_ringbuf_discard(a, 0);
    if (b)
        bpf_ringbuf_discard(b, 0);
    if (c)
        bpf_ringbuf_discard(c, 0);
    if (d)
        bpf_ringbuf_discard(d, 0);
    if (e)
        bpf_ringbuf_discard(e, 0);
    if (f)
        bpf_ringbuf_discard(f, 0);
    if (g)
        bpf_ringbuf_discard(g, 0);
    if (h)
        bpf_ringbuf_discard(h, 0);
    if (i)
        bpf_ringbuf_discard(i, 0);
    return TIDEGATE_PERMIT;
}
