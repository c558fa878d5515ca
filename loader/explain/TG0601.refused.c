#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    /* What other systems' programs return here means nothing to this one. */
    return ctx->remote_port == 23 ? -1 : 0;
}
