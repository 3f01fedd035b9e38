// How a subcommand is written: one file that registers itself.
//
//   int run(const Options& options);              // prints; returns the exit code
//   void add(Command app) {                       // describes its arguments
//     auto options = std::make_shared<Options>();
//     Command command = app.add_subcommand("eval", "measure a trained model");
//     command.add_option("run", options->run, "run folder").required();
//     command.callback([options] { set_exit_code(run(*options)); });
//   }
//   const RegisterCommand row{"eval", add};
//
// A user's mistake is an Error or ConfigError: main() prints its one line and exits with 2.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace tessera::cli {

// Handles on CLI11's objects; only command.cpp reads its headers, which take seconds to compile.
class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}
  Option& required();
  Option& range(double low, double high);    // both included
  Option& allow_extra_args(bool on = true);  // several values after one name

 private:
  CLI::Option* option_;
};

class Command {
 public:
  explicit Command(CLI::App* app) : app_(app) {}
  Command add_subcommand(const std::string& name, const std::string& help);
  void require_subcommand();
  // T is a bool, int, int64_t, uint64_t, double, std::string, or a vector or optional of those that
  // command.cpp lists. A name without dashes is positional.
  template <class T>
  Option add_option(const std::string& name, T& value, const std::string& help);
  Option add_flag(const std::string& name, bool& value, const std::string& help);
  void callback(std::function<void()> run);

 private:
  CLI::App* app_;
};

using AddCommand = void (*)(Command app);

struct RegisterCommand {
  RegisterCommand(const std::string& name, AddCommand add);
};

void set_exit_code(int code);

// Parses the command line and runs the subcommand; the exit code. What the user got wrong is thrown
// as an Error.
int run_program(int argc, char** argv);

}  // namespace tessera::cli
