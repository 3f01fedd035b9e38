// tessera report RUN [--out FILE] [--step N]
#include "tessera/cli/report.h"

#include <fmt/format.h>

#include "tessera/analysis/report.h"
#include "tessera/cli/command.h"
#include "tessera/core/file.h"

namespace tessera::cli {
namespace {
namespace fs = std::filesystem;

constexpr uintmax_t kQuickly = 200'000'000;  // bytes of weights that are read and drawn in seconds

struct Options {
  std::string run;
  std::string out;
  int64_t step = -1;
};

int run(const Options& o) {
  const RunFolder folder(o.run);
  PictureSource source;
  if (o.step >= 0) source.step = o.step;
  PictureInput input(folder, source);
  const fs::path out = o.out.empty() ? folder.path() / "report.html" : fs::path(o.out);
  write_file_atomic(out.string(), run_report(input));
  fmt::print("{}\n", out.string());
  return 0;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command =
      app.add_subcommand("report", "write a page about a run: curves, samples, pictures, config");
  command.add_option("run", o->run, "run folder").required();
  command.add_option("--out", o->out, "the HTML file (default: RUN/report.html)");
  command.add_option("--step", o->step, "which checkpoint is drawn (default: the newest)");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"report", add};

}  // namespace

void write_report(const fs::path& run) {
  const RunFolder folder(run);
  PictureInput input(folder);
  const fs::path weights = checkpoint_folder(run, folder.latest_step()) / "model.safetensors";
  write_file_atomic((run / "report.html").string(),
                    run_report(input, fs::file_size(weights) < kQuickly));
}

}  // namespace tessera::cli
