// The subcommands of `tessera bench` that have files of their own.
#pragma once

#include "tessera/cli/command.h"

namespace tessera::cli {

void add_bench_generate(Command bench);

}  // namespace tessera::cli
