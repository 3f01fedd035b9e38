// The tessera program: parses the command line, runs one subcommand, turns errors into one line.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <map>
#include <new>

#include "tessera/cli/command.h"
#include "tessera/core/parallel.h"

namespace tessera::cli {
namespace {

std::map<std::string, AddCommand>& commands() {
  static std::map<std::string, AddCommand> map;
  return map;
}

int code = 0;

int complain(const std::string& message) {
  std::string line = message.substr(0, message.find('\n'));
  fmt::print(stderr, "tessera: {}\n", line);
  return 2;
}

int run(int argc, char** argv) {
  CLI::App app{
      "tessera trains small models from config files, runs them on text and images, and checks\n"
      "gradients numerically. Start with:  tessera train configs/quickstart_text.json"};
  app.name("tessera");
  app.set_version_flag("--version", TESSERA_VERSION);
  app.require_subcommand(1);
  add_commands(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& done) {  // --help, --version
    return app.exit(done);
  } catch (const CLI::ParseError& error) {
    return complain(std::string(error.what()) + " (see tessera --help)");
  }
  return exit_code();
}

}  // namespace

RegisterCommand::RegisterCommand(const std::string& name, AddCommand add) {
  commands()[name] = add;
}

void add_commands(CLI::App& app) {
  for (const auto& [name, add] : commands()) add(app);
}

void set_exit_code(int value) {
  code = value;
}
int exit_code() {
  return code;
}

}  // namespace tessera::cli

int main(int argc, char** argv) {
  try {
    return tessera::cli::run(argc, argv);
  } catch (const std::bad_alloc&) {
    return tessera::cli::complain("out of memory; make the batch or the model smaller");
  } catch (const std::exception& error) {
    return tessera::cli::complain(error.what());
  }
}
