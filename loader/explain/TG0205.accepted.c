#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    void *volatile kept = (void *)ctx->data;

    return kept == (void *)ctx->data_end ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
