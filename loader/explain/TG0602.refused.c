#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    while (ctx->remote_port == 23)
        ;
    return TIDEGATE_PERMIT;
}
