#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    asm volatile("r1 = 1");
    return TIDEGATE_PERMIT;
}
