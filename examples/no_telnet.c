// SPDX-License-Identifier: Apache-2.0 OR MIT
// The policy of the README: resets connections to the telnet port.

#include <tidegate.h>

/* No clear-text remote shells: reset what goes to the telnet port. */
SEC("tidegate/stream")
int no_telnet(struct tidegate_stream *ctx)
{
    if (ctx->direction == TIDEGATE_OUTBOUND && ctx->remote_port == 23)
        return TIDEGATE_DROP_CONNECTION;
    return TIDEGATE_CONTINUE;
}
