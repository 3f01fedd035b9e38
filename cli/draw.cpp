// tessera draw RUN [PICTURE…] [--text T | --file F | --image F …] [--out DIR] [--step N] [--set …]
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "tessera/analysis/picture.h"
#include "tessera/cli/command.h"
#include "tessera/core/file.h"

namespace tessera::cli {
namespace {
namespace fs = std::filesystem;

struct Options {
  std::string run;
  std::vector<std::string> pictures;
  std::vector<std::string> set;
  std::string text;
  std::string file;
  std::vector<std::string> images;
  std::string out;
  int64_t step = -1;
  bool list = false;
  bool json = false;
};

PictureSource given_of(const Options& o) {
  PictureSource given;
  if (o.step >= 0) given.step = o.step;
  check(o.text.empty() || o.file.empty(), "draw: give --text or --file, not both");
  if (!o.text.empty()) given.text = o.text;
  if (!o.file.empty()) given.text = read_file(o.file);
  for (const std::string& file : o.images) given.images.emplace_back(file);
  return given;
}

// The settings meant for one picture: "tokens=32" when it is the only one, "NAME.tokens=32" else.
std::vector<std::string> settings_of(const Options& o, const std::string& name) {
  std::vector<std::string> settings;
  for (const std::string& text : o.set) {
    const size_t dot = text.find('.'), equals = text.find('=');
    if (dot < equals && text.substr(0, dot) == name) settings.push_back(text.substr(dot + 1));
    if (dot > equals && o.pictures.size() == 1) settings.push_back(text);
  }
  return settings;
}

void check_settings(const Options& o, const std::vector<std::string>& names) {
  for (const std::string& text : o.set) {
    const size_t dot = text.find('.'), equals = text.find('=');
    const bool named =
        dot < equals && std::find(names.begin(), names.end(), text.substr(0, dot)) != names.end();
    check(named || (dot > equals && o.pictures.size() == 1),
          "draw: --set {}: say of which picture, as PICTURE.key=value (pictures: {})", text,
          fmt::join(names, ", "));
  }
}

int list(const std::vector<std::string>& names, bool json) {
  Json answer = Json::array();
  for (const std::string& name : names) {
    const Entry& entry = find_entry(Picture::kKind, name, "draw");
    answer.push_back({{"name", name}, {"summary", entry.summary}, {"source", entry.source}});
    if (!json) fmt::print("{:<20} {}\n", name, entry.summary);
  }
  if (json) fmt::print("{}\n", answer.dump());
  return 0;
}

int run(const Options& o) {
  const RunFolder folder(o.run);
  PictureInput input(folder, given_of(o));
  const std::vector<std::string> names =
      o.pictures.empty() || o.list ? offered_pictures(input) : o.pictures;
  if (o.list) return list(names, o.json);
  check(!names.empty(), "draw: {} offers no pictures", o.run);
  check_settings(o, names);
  const fs::path out = o.out.empty() ? folder.path() / "pictures" : fs::path(o.out);
  std::error_code error;
  fs::create_directories(out, error);
  check(!error, "draw: {} cannot be made: {}", out.string(), error.message());
  Json answer = Json::array();
  for (const std::string& name : names) {
    for (const NamedCanvas& drawn : draw_picture(name, settings_of(o, name), input)) {
      const fs::path file = out / (drawn.name + ".png");
      drawn.canvas.save(file);
      answer.push_back({{"picture", name}, {"file", file.string()}});
      if (!o.json) {
        fmt::print("{} ({} × {})\n", file.string(), drawn.canvas.width(), drawn.canvas.height());
      }
    }
  }
  if (o.json) fmt::print("{}\n", answer.dump());
  return 0;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand("draw", "draw what a trained model shows, as PNG files");
  command.add_option("run", o->run, "run folder").required();
  command.add_option("pictures", o->pictures, "which ones (default: all that the model offers)");
  command.add_option("--text", o->text, "the text that the model reads");
  command.add_option("--file", o->file, "a file with that text");
  command.add_option("--image", o->images, "PNG, JPEG or BMP files that the model looks at");
  command.add_option("--out", o->out, "folder of the files (default: RUN/pictures)");
  command.add_option("--step", o->step, "which checkpoint (default: the newest)");
  command
      .add_option("--set", o->set,
                  "options of pictures: --set attention_maps.tokens=32; "
                  "tessera describe PICTURE lists them")
      .allow_extra_args();
  command.add_flag("--list", o->list, "only say what the model offers");
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"draw", add};

}  // namespace
}  // namespace tessera::cli
