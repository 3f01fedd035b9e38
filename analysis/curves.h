// How the metrics of a run are shown.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tessera/analysis/plot.h"
#include "tessera/config/json.h"

namespace tessera {

// The charts for what rows of metrics.jsonl hold of the whole model, each with the metrics that it
// shows: ("loss", {"train_loss", "val_loss"}). Loss, accuracy, learning rate and speed come first.
std::vector<std::pair<std::string, std::vector<std::string>>> metric_charts(
    const std::vector<Json>& rows);

// Values that follow the raw ones slowly, by the share `keep` of the running mean.
Series smoothed(const Series& raw, double keep);

}  // namespace tessera
