#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    /* So many bytes are never shown at once. */
    tidegate_remove(ctx, 100000, 4);
    return TIDEGATE_PERMIT;
}
