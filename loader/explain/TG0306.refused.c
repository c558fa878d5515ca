#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    char *data = (void *)ctx->data, *end = (void *)ctx->data_end;

    if (data + 1 > end)
        return TIDEGATE_PERMIT;
    data[0] = 'X';
    return TIDEGATE_PERMIT;
}
