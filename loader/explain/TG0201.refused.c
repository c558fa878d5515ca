#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    /* After a call, what was in the argument registers is gone. */
    bpf_ktime_get_ns();
    asm volatile("r3 += 1" : : : "r3");
    return TIDEGATE_PERMIT;
}
