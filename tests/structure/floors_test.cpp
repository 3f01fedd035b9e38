// The order of the house, read from its files: who may include whom, sizes, header guards.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

const fs::path kSource = TESSERA_SOURCE_DIR;
constexpr size_t kMaxLines = 700;

using Names = std::set<std::string>;

Names operator+(Names a, const Names& b) {
  a.insert(b.begin(), b.end());
  return a;
}

// Each folder and the folders it may include (docs/architecture.md shows them as floors).
const std::map<std::string, Names>& floors() {
  static const std::map<std::string, Names> all = [] {
    const Names ground = {"core", "config"};
    const Names nn = ground + Names{"autograd", "data", "nn"};
    const Names models = nn + Names{"attention", "models"};
    return std::map<std::string, Names>{
        {"core", {"core"}},
        {"config", {"config"}},
        {"autograd", ground + Names{"autograd"}},
        {"data", ground + Names{"data"}},
        {"nn", nn},
        {"attention", nn + Names{"attention"}},
        {"models", models},
        {"inference", models + Names{"inference"}},
        {"train", models + Names{"train", "inference"}},
        {"analysis", models + Names{"analysis"}},
        {"cli", models + Names{"train", "inference", "analysis", "cli"}},
    };
  }();
  return all;
}

std::vector<std::string> read_lines(const fs::path& file) {
  std::ifstream in(file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

bool is_header(const fs::path& file) {
  return file.extension() == ".h" || file.extension() == ".cuh";
}

bool is_source(const fs::path& file) {
  const fs::path type = file.extension();
  return is_header(file) || type == ".cpp" || type == ".cc" || type == ".cu";
}

// Calls fn(file, its lines) for every source file below a folder of the repository.
void for_each_file(
    const std::string& folder,
    const std::function<void(const fs::path&, const std::vector<std::string>&)>& fn) {
  if (!fs::exists(kSource / folder)) return;
  for (const auto& entry : fs::recursive_directory_iterator(kSource / folder)) {
    if (entry.is_regular_file() && is_source(entry.path())) {
      fn(fs::relative(entry.path(), kSource), read_lines(entry.path()));
    }
  }
}

// What is wrong with one line of a file in `folder`, or nothing.
std::string include_error(const std::string& folder, const std::string& line) {
  static const std::regex quoted(R"(^\s*#\s*include\s*"([^"]*)\".*)");
  static const std::regex ours("tessera/([a-z_]+)/.+");
  std::smatch include;
  if (!std::regex_match(line, include, quoted)) return "";
  const std::string path = include[1];
  std::smatch target;
  if (!std::regex_match(path, target, ours)) {
    return "include headers of the project as \"tessera/<folder>/x.h\", not \"" + path + "\"";
  }
  if (floors().at(folder).contains(target[1])) return "";
  return folder + "/ may not include " + target[1].str() + "/ (\"" + path + "\")";
}

}  // namespace

TEST_CASE("a folder includes only folders on lower floors") {
  for (const auto& floor : floors()) {
    const std::string& folder = floor.first;
    for_each_file(folder, [&](const fs::path& file, const std::vector<std::string>& lines) {
      for (size_t i = 0; i < lines.size(); ++i) {
        const std::string error = include_error(folder, lines[i]);
        CHECK_MESSAGE(error.empty(), file.string() << ":" << i + 1 << ": " << error);
      }
    });
  }
}

TEST_CASE("an include of a higher floor or by a bare name is an error") {
  CHECK(include_error("nn", R"(#include "tessera/core/tensor.h")").empty());
  CHECK(include_error("train", R"(#include "tessera/inference/generate.h")").empty());
  CHECK(include_error("core", "#include <vector>").empty());
  CHECK_FALSE(include_error("core", R"(#include "tessera/config/json.h")").empty());
  CHECK_FALSE(include_error("data", R"(#  include "tessera/autograd/op.h"  // why)").empty());
  CHECK_FALSE(include_error("inference", R"(#include "tessera/train/trainer.h")").empty());
  CHECK_FALSE(include_error("nn", R"(#include "linear.h")").empty());
}

TEST_CASE("every file is shorter than 700 lines and every header has #pragma once") {
  std::vector<std::string> folders = {"tests", "bench"};
  for (const auto& floor : floors()) folders.push_back(floor.first);
  for (const std::string& folder : folders) {
    for_each_file(folder, [](const fs::path& file, const std::vector<std::string>& lines) {
      CHECK_MESSAGE(lines.size() < kMaxLines,
                    file.string() << ":" << lines.size() << ": as many lines; split the file");
      const bool guarded = std::find(lines.begin(), lines.end(), "#pragma once") != lines.end();
      CHECK_MESSAGE((guarded || !is_header(file)), file.string() << ":1: no #pragma once");
    });
  }
}
