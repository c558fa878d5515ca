#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    /* r11 = 0 */
    asm volatile(".8byte 0x0bb7");
    return TIDEGATE_PERMIT;
}
