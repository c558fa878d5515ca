#!/bin/sh
# Compiles NAME for the machine that runs it. Needs Debian's clang-19, or any clang from 14 on.
set -eu
cd "$(dirname "$0")"
"${CLANG:-clang-19}" -target bpf -mcpu=v3 -g -O2 -Wall -Werror -c NAME.c -o NAME.o
