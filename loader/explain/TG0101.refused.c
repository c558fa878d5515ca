#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    /* No instruction has the opcode 0xff. */
    asm volatile(".8byte 0xff");
    return TIDEGATE_PERMIT;
}
