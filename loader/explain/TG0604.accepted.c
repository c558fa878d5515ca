#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    if (!(ctx->flags & TIDEGATE_STREAM_NO_MORE_DATA))
        return TIDEGATE_NEED_MORE_DATA;
    return TIDEGATE_PERMIT;
}
