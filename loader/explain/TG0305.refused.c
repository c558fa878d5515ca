#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    /* `flags` has four bytes. */
    return *(volatile __u16 *)&ctx->flags & TIDEGATE_STREAM_ABORT ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
