#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    return ctx->flags & TIDEGATE_STREAM_ABORT ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
