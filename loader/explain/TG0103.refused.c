#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    /* r1 = 0, with 5 in a field that this instruction has no use for */
    asm volatile(".8byte 0x501b7");
    return TIDEGATE_PERMIT;
}
