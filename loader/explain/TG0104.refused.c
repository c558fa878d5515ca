#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    asm volatile("goto +1000");
    return TIDEGATE_PERMIT;
}
