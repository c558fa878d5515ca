#include <tidegate.h>

static __attribute__((noinline)) int depth(__u64 number)
{
    int below = number ? depth(number >> 1) : 0;

    asm volatile("" : "+r"(below));
    return below + (number & 1);
}

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    return depth(ctx->flow_id) > 4 ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
