#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    return (char *)ctx->data > (char *)ctx ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
