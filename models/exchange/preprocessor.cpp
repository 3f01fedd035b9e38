#include "tessera/models/exchange/preprocessor.h"

#include <cmath>

#include "tessera/config/json.h"
#include "tessera/core/error.h"
#include "tessera/core/file.h"

namespace tessera {
namespace {
namespace fs = std::filesystem;

constexpr const char* kFile = "preprocessor_config.json";
constexpr int kNearest = 0, kBilinear = 2, kBicubic = 3;  // PIL's numbers

std::string filter_of(const Json& number, const std::string& where) {
  if (number == kNearest) return "nearest";
  if (number == kBilinear) return "bilinear";
  check(number == kBicubic, "{}: \"resample\" is {}; known are 0, 2 and 3", where, preview(number));
  return "bicubic";
}

// A size is a number, {"height": h, "width": h}, or {"shortest_edge": s}, which keeps the ratio.
struct Size {
  int64_t length = 0;
  bool stretch = true;
};

Size size_of(const Json& json, const std::string& where, const char* key) {
  if (json.is_number_integer()) return {json.get<int64_t>()};
  check(json.is_object(), "{}: \"{}\" is {}", where, key, preview(json));
  if (json.contains("shortest_edge")) return {json.at("shortest_edge").get<int64_t>(), false};
  check(json.contains("height") && json.value("width", Json()) == json.at("height"),
        "{}: \"{}\" is {}; wants equal height and width, or shortest_edge", where, key,
        preview(json));
  return {json.at("height").get<int64_t>()};
}

Json steps_of(const Json& config, const DataInfo& info, const std::string& where) {
  Json steps = Json::array();
  if (config.value("do_resize", true)) {
    const Size size = size_of(config.value("size", Json(info.height)), where, "size");
    steps.push_back({{"type", "resize"},
                     {"size", size.length},
                     {"filter", filter_of(config.value("resample", Json(kBilinear)), where)},
                     {"stretch", size.stretch}});
  }
  if (config.value("do_center_crop", false)) {
    const Size size = size_of(config.value("crop_size", Json(info.height)), where, "crop_size");
    steps.push_back({{"type", "center_crop"}, {"size", size.length}});
  }
  const double factor = config.value("rescale_factor", 1.0 / 255);
  check(config.value("do_rescale", true) && std::abs(factor * 255 - 1) < 1e-3,
        "{}: images must be rescaled by 1/255", where);
  if (config.value("do_normalize", true)) {
    const Json half = Json::array({0.5, 0.5, 0.5});
    steps.push_back({{"type", "normalize"},
                     {"mean", config.value("image_mean", half)},
                     {"std", config.value("image_std", half)}});
  }
  return steps;
}

// What timm's config.json says, in the same terms.
Json from_timm(const Json& config, const DataInfo& info) {
  const Json& own = config.at("pretrained_cfg");
  const double part = own.value("crop_pct", 0.875);
  const auto side = static_cast<int64_t>(std::floor(static_cast<double>(info.height) / part));
  return {{"size", {{"shortest_edge", side}}},
          {"resample", own.value("interpolation", "bicubic") == "bilinear" ? kBilinear : kBicubic},
          {"do_center_crop", true},
          {"crop_size", info.height},
          {"image_mean", own.value("mean", Json::array({0.485, 0.456, 0.406}))},
          {"image_std", own.value("std", Json::array({0.229, 0.224, 0.225}))}};
}

Json config_of(const fs::path& folder, const DataInfo& info) {
  if (fs::exists(folder / kFile)) return read_json(folder / kFile);
  const Json model = read_json(folder / "config.json");
  return model.contains("pretrained_cfg") ? from_timm(model, info) : Json::object();
}

}  // namespace

TransformList read_preprocessor(const fs::path& folder, const DataInfo& info) {
  const fs::path file = folder / kFile;
  try {
    const Json config = config_of(folder, info);
    std::vector<Choice<Transform>> choices;
    for (const Json& step : steps_of(config, info, file.string())) {
      choices.push_back(from_json<Choice<Transform>>(step, file.string()));
    }
    return TransformList(std::move(choices));
  } catch (const Json::exception& error) {
    fail("{}: {}", file.string(), error.what());
  }
}

void write_preprocessor(const fs::path& folder, const DataInfo& info,
                        const TransformList& transforms) {
  // Without a resize of its own an image is fitted by preprocess(): the shorter side, then a crop.
  Json config = {{"image_processor_type", "CLIPImageProcessor"},
                 {"do_convert_rgb", info.channels == 3},
                 {"do_resize", true},
                 {"size", {{"shortest_edge", info.height}}},
                 {"resample", kBilinear},
                 {"do_center_crop", true},
                 {"crop_size", {{"height", info.height}, {"width", info.width}}},
                 {"do_rescale", true},
                 {"rescale_factor", 1.0 / 255},
                 {"do_normalize", false}};
  for (const auto& choice : transforms.choices) {
    const Json json = to_json(choice);
    const std::string type = json.at("type").get<std::string>();
    if (type == "resize") {
      const Json& size = json.at("size");
      const bool stretch = json.at("stretch").get<bool>();
      const std::string filter = json.at("filter").get<std::string>();
      config["size"] =
          stretch ? Json{{"height", size}, {"width", size}} : Json{{"shortest_edge", size}};
      config["do_center_crop"] = false;
      config["resample"] = filter == "nearest"    ? kNearest
                           : filter == "bilinear" ? kBilinear
                                                  : kBicubic;
    } else if (type == "center_crop") {
      config["do_center_crop"] = true;
      config["crop_size"] = {{"height", json.at("size")}, {"width", json.at("size")}};
    } else if (type == "normalize") {
      config["do_normalize"] = true;
      config["image_mean"] = json.at("mean");
      config["image_std"] = json.at("std");
    }
  }
  write_file_atomic((folder / kFile).string(), config.dump(2) + "\n");
}

}  // namespace tessera
