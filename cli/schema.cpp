// tessera schema
#include <fmt/format.h>

#include "tessera/cli/command.h"
#include "tessera/config/json.h"
#include "tessera/train/config.h"

namespace tessera::cli {
namespace {

void add(Command app) {
  Command command = app.add_subcommand("schema", "print the JSON Schema of configs, for editors");
  command.callback([] {
    fmt::print("{}\n", schema<RunConfig>().dump(2));
    set_exit_code(0);
  });
}

const RegisterCommand row{"schema", add};

}  // namespace
}  // namespace tessera::cli
