#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    int (*decide)(void) = (void *)ctx->flow_id;

    return decide() ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
