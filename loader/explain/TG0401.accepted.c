#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    return ctx->process_id ? TIDEGATE_PERMIT : TIDEGATE_CONTINUE;
}
