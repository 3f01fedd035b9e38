#include "tessera/cli/command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <map>
#include <optional>

#include "tessera/core/error.h"

namespace tessera::cli {
namespace {

std::map<std::string, AddCommand>& commands() {
  static std::map<std::string, AddCommand> map;
  return map;
}

int exit_code = 0;

}  // namespace

Option& Option::required() {
  option_->required();
  return *this;
}

Option& Option::range(double low, double high) {
  option_->check(CLI::Range(low, high).description(fmt::format("{:.10g} to {:.10g}", low, high)));
  return *this;
}

Option& Option::allow_extra_args(bool on) {
  option_->allow_extra_args(on);
  return *this;
}

Command Command::add_subcommand(const std::string& name, const std::string& help) {
  return Command(app_->add_subcommand(name, help));
}

void Command::require_subcommand() {
  app_->require_subcommand(1);
}

template <class T>
Option Command::add_option(const std::string& name, T& value, const std::string& help) {
  return Option(app_->add_option(name, value, help));
}

template Option Command::add_option(const std::string&, int&, const std::string&);
template Option Command::add_option(const std::string&, int64_t&, const std::string&);
template Option Command::add_option(const std::string&, uint64_t&, const std::string&);
template Option Command::add_option(const std::string&, double&, const std::string&);
template Option Command::add_option(const std::string&, std::string&, const std::string&);
template Option Command::add_option(const std::string&, std::vector<std::string>&,
                                    const std::string&);
template Option Command::add_option(const std::string&, std::vector<int64_t>&, const std::string&);
template Option Command::add_option(const std::string&, std::optional<int64_t>&,
                                    const std::string&);
template Option Command::add_option(const std::string&, std::optional<double>&, const std::string&);
template Option Command::add_option(const std::string&, std::optional<std::string>&,
                                    const std::string&);

Option Command::add_flag(const std::string& name, bool& value, const std::string& help) {
  return Option(app_->add_flag(name, value, help));
}

void Command::callback(std::function<void()> run) {
  app_->callback(std::move(run));
}

RegisterCommand::RegisterCommand(const std::string& name, AddCommand add) {
  commands()[name] = add;
}

void set_exit_code(int code) {
  exit_code = code;
}

int run_program(int argc, char** argv) {
  CLI::App app{
      "tessera trains small models from config files, runs them on text and images, and checks\n"
      "gradients numerically. Start with:  tessera train configs/quickstart_text.json"};
  app.name("tessera");
  app.set_version_flag("--version", TESSERA_VERSION);
  app.require_subcommand(1);
  for (const auto& [name, add] : commands()) add(Command(&app));
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& done) {  // --help, --version
    return app.exit(done);
  } catch (const CLI::ParseError& error) {
    fail("{} (see tessera --help)", error.what());
  }
  return exit_code;
}

}  // namespace tessera::cli
