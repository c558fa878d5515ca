#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    unsigned char *data = (void *)ctx->data, *end = (void *)ctx->data_end;

    if (data + 4 > end)
        return TIDEGATE_PERMIT;
    /* Four bytes were compared, and this is the fifth. */
    return data[4] == 'X' ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
