#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    return (char *)ctx->data + 100 > (char *)ctx->data_end ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
