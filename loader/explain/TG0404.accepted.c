#include <tidegate.h>

static __attribute__((noinline)) int depth(__u64 number)
{
    int depth = 0;

    for (int i = 0; i < 64; i++, number >>= 1)
        depth += number & 1;
    return depth;
}

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    return depth(ctx->flow_id) > 4 ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
