// The tessera program: runs one subcommand, turns errors into one line.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <new>

#include "tessera/cli/command.h"

namespace {

int complain(const std::string& message) {
  fmt::print(stderr, "tessera: {}\n", message.substr(0, message.find('\n')));
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return tessera::cli::run_program(argc, argv);
  } catch (const std::bad_alloc&) {
    return complain("out of memory; make the batch or the model smaller");
  } catch (const std::exception& error) {
    return complain(error.what());
  }
}
