#include "tessera/train/config.h"

#include "tessera/config/json.h"

namespace tessera {

template RunConfig from_json<RunConfig>(const Json& json, const std::string& path);
template Json to_json<RunConfig, Json>(const RunConfig& config);

}  // namespace tessera
