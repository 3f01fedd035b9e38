#include "tessera/train/run_log.h"

#include <cmath>

#include "tessera/config/json.h"
#include "tessera/core/error.h"
#include "tessera/core/file.h"

namespace tessera {
namespace {

// The lines of a metrics file up to a step.
std::string lines_until(const std::filesystem::path& path, int64_t step) {
  std::string kept;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    const Json json = Json::parse(line, nullptr, false);
    if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) continue;
    if (json["step"].get<int64_t>() <= step) kept += line + "\n";
  }
  return kept;
}

}  // namespace

RunLog::RunLog(const std::filesystem::path& run, int64_t step) : events_(run) {
  const std::filesystem::path path = run / "metrics.jsonl";
  write_file_atomic(path, lines_until(path, step));
  file_.open(path, std::ios::app);
  check(file_.good(), "{}: cannot be written", path.string());
}

void RunLog::write(int64_t step, const std::map<std::string, double>& values) {
  Json line;
  line["step"] = step;
  for (const auto& [name, value] : values) {
    line[name] = value;  // a NaN becomes null
    events_.scalar(name, value, step);
  }
  file_ << line.dump() << "\n";
}

void RunLog::flush() {
  file_.flush();
  events_.flush();
}

}  // namespace tessera
