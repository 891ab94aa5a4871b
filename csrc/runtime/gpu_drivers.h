// GPUs that the drivers of NVIDIA, AMD and Intel show to this process, asked before a PJRT plugin is started on one.
#pragma once

#include <string>

#include "error.h"

namespace so3krates {

// platform: "cuda", "rocm" or "oneapi". At least 1; throws Error where there is no driver or no GPU, and says which and
// what to do. Libraries that a plugin of ROCm has loaded are found by it alone: call this after the plugin was opened.
int gpu_count(const std::string& platform);

// Throws Error where device `index` is not there, where the driver is too old for `plugin`, the path of one for CUDA,
// and for platform "cpu", which a plugin of GPUs does not serve.
void check_gpu(const std::string& platform, int index, const std::string& plugin);

}  // namespace so3krates
