#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    bpf_ktime_get_ns();
    asm volatile("r3 = 0\n r3 += 1" : : : "r3");
    return TIDEGATE_PERMIT;
}
