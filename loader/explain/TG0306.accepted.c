#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    if (ctx->data == ctx->data_end)
        return TIDEGATE_PERMIT;
    tidegate_replace(ctx, 0, 1, "X", 1);
    return TIDEGATE_PERMIT;
}
