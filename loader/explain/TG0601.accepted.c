#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    return ctx->remote_port == 23 ? TIDEGATE_BLOCK : TIDEGATE_CONTINUE;
}
