#include <tidegate.h>

static __attribute__((noinline)) int decide(__u64 flow)
{
    return flow & 1;
}

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    return decide(ctx->flow_id) ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
