#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    /* A call of a kernel function (kfunc), by its number in Linux's BTF. */
    asm volatile(".8byte 0x4d200002085" : : : "r0", "r1", "r2", "r3", "r4", "r5");
    return TIDEGATE_PERMIT;
}
