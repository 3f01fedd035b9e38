// How a subcommand is written: one file that registers itself.
//
//   int run(const Options& options);              // prints; returns the exit code
//   void add(CLI::App& app) {                     // describes its arguments
//     auto options = std::make_shared<Options>();
//     auto* command = app.add_subcommand("eval", "measure a trained model");
//     command->add_option("run", options->run, "run folder")->required();
//     command->callback([options] { set_exit_code(run(*options)); });
//   }
//   const RegisterCommand row{"eval", add};
//
// A user's mistake is an Error or ConfigError: main() prints its one line and exits with 2.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace tessera::cli {

using AddCommand = void (*)(CLI::App& app);

struct RegisterCommand {
  RegisterCommand(const std::string& name, AddCommand add);
};

void add_commands(CLI::App& app);  // all registered ones, by name
void set_exit_code(int code);
int exit_code();

}  // namespace tessera::cli
