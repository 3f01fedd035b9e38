// Scalars as TensorBoard reads them: records of length, masked CRC-32C and a protocol-buffer Event.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace tessera {

class TensorBoardWriter {
 public:
  // Opens (and on resume appends to) one events file in the folder.
  explicit TensorBoardWriter(const std::filesystem::path& folder);
  void scalar(std::string_view tag, double value, int64_t step);
  void flush();

 private:
  void record(const std::string& event);
  std::ofstream file_;
};

}  // namespace tessera
