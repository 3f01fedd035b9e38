#pragma once

#include <filesystem>

namespace tessera::cli {

// RUN/report.html of a run that has just ended; without pictures where the model is large.
void write_report(const std::filesystem::path& run);

}  // namespace tessera::cli
