#pragma once

#include "tessera/cli/command.h"

namespace tessera::cli {

void add_tokenize(Command data);  // a subcommand of `tessera data`

}  // namespace tessera::cli
