#include "agreement.h"

#include <iterator>
#include <stdexcept>

#include "cuda_kernels.h"
#include "error.h"
#include "layout.h"
#include "pairs.h"

namespace so3krates {

std::map<std::string, std::int64_t> kernel_constants() {
  return {
      {"cpu_version", kernels::kVersion},
      {"gpu_version", cuda::kKernelVersion},
      {"quad", kernels::kQuad},
      {"padding", kernels::kPadding},
      {"most_degrees", kernels::kMostDegrees},
      {"rounds", kernels::kRounds},
      {"schedule_entries", kernels::kScheduleEntries},
  };
}

std::vector<std::string> kernel_cutoff_functions() {
  return {std::begin(kernels::kCutoffNames), std::end(kernels::kCutoffNames)};
}

std::map<std::string, std::int64_t> kernel_widths(int features, int heads, const std::vector<std::int64_t>& degrees,
                                                  int hidden, int readout) {
  try {
    const kernels::Layout l = kernels::widths_of({features, heads, degrees, hidden, readout});
    return {
        {"head_features", l.head_features},
        {"group", l.group},
        {"feature_width", l.feature_width},
        {"feature_stride", l.feature_stride},
        {"block_width", l.block_width},
        {"block_stride", l.block_stride},
        {"geometric_stride", l.geometric_stride},
        {"order_stride", l.order_stride},
        {"hidden", l.hidden},
        {"hidden_stride", l.hidden_stride},
        {"readout", l.readout},
        {"readout_stride", l.readout_stride},
        {"row_stride", l.row_stride},
        {"message_stride", l.message_stride},
    };
  } catch (const std::invalid_argument& problem) {
    throw Error(problem.what());
  }
}

}  // namespace so3krates
