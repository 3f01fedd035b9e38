// Resized and cropped images against torchvision's; scripts/reference_images.py made the figures.
#include <doctest/doctest.h>

#include <cmath>

#include "support.h"
#include "tessera/data/image.h"
#include "tessera/data/image_color.h"
#include "tessera/data/transform.h"

using namespace tessera;

namespace {

// The transforms of a row of the figures.
TransformList transforms_of(const Json& row) {
  const Json resize = {{"type", "resize"},
                       {"size", row.at("size")},
                       {"filter", row.at("filter")},
                       {"stretch", row.at("stretch")}};
  std::vector<Choice<Transform>> list = {from_json<Choice<Transform>>(resize)};
  if (row.at("crop").get<int64_t>() > 0) {
    const Json crop = {{"type", "center_crop"}, {"size", row.at("crop")}};
    list.push_back(from_json<Choice<Transform>>(crop));
  }
  return TransformList(list);
}

}  // namespace

TEST_CASE("images are prepared as torchvision prepares them, to one step of a byte") {
  const auto figures_file =
      std::filesystem::path(TESSERA_SOURCE_DIR) / "tests/data/reference/images.json";
  const char* root = std::getenv("TESSERA_DATA_DIR");
  if (root == nullptr || !std::filesystem::exists(figures_file)) {
    MESSAGE("skipped: TESSERA_DATA_DIR is not set, or no " << figures_file.string());
    return;
  }
  const Json figures = read_json(figures_file);
  const auto step = figures.at("step").get<size_t>();
  for (const Json& row : figures.at("rows")) {
    const std::string name = row.at("file").get<std::string>();
    const auto file = std::filesystem::path(root) / name;
    if (!std::filesystem::exists(file)) continue;
    CAPTURE(row.dump());
    const Tensor image = transforms_of(row)(with_channels(load_image(file), 3), nullptr);
    const auto shape = row.at("shape").get<std::vector<int64_t>>();
    REQUIRE(image.shape() == Shape{shape[0], shape[1], shape[2]});
    const auto values = image.to_vector<float>();
    const std::string hex = row.at("bytes").get<std::string>();
    // Decoders of JPEG differ by a few steps themselves.
    const double allowed = name.ends_with(".JPEG") ? 6.0 : 1.0;
    double worst = 0, total = 0;
    size_t count = 0;
    for (size_t at = 0; at < values.size(); at += step, ++count) {
      const int wanted = std::stoi(hex.substr(2 * count, 2), nullptr, 16);
      const double byte = std::round(static_cast<double>(values[at]) * 255);
      const double off = std::abs(byte - wanted);
      worst = std::max(worst, off);
      total += off;
    }
    CHECK(2 * count == hex.size());
    CHECK(worst <= allowed);
    CHECK(total / static_cast<double>(count) <= 0.6);
  }
}
