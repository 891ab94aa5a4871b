// How programs are compiled, as the plugin takes it: serialised xla.CompileOptionsProto.
#include <string>

#include "pjrt.h"
#include "pjrt_api.h"
#include "plugin_search.h"
#include "xla_flags.h"

namespace so3krates::pjrt {
namespace {

// A message of protocol buffers, of the field `field`.
std::string message(int field, const std::string& content) {
  std::string begin{static_cast<char>(field << 3 | 2)};
  std::size_t size = content.size();
  for (; size > 0x7f; size >>= 7) begin += static_cast<char>((size & 0x7f) | 0x80);
  return begin + static_cast<char>(size) + content;
}

std::string flag(const char* name, const std::string& value) {
  return message(7, message(1, name) + message(2, value));
}

}  // namespace

// By xla/pjrt/proto/compile_options.proto. The device is named when the program is run, and by no ordinal before
// (-1), for 0, which is what nothing said means there, is a device that this process perhaps does not see.
std::string compile_options(bool deterministic, const std::string& cuda_folder) {
  const std::string no_device = std::string("\x08") + std::string(9, '\xff') + '\x01';
  const std::string one_device("\x20\x01\x28\x01", 4);  // num_replicas: 1 num_partitions: 1
  std::string options = message(3, no_device + one_device) + std::string("\x20\x01", 2);  // ..., portable: true
  if (deterministic) {
    // The first choice of each library, without timing; Triton has none for float32 in XLA 0.11 and 0.12.
    options += flag("xla_gpu_exclude_nondeterministic_ops", "\x10\x01");
    options += flag("xla_gpu_enable_triton_gemm", std::string("\x10\x00", 2));
  }
  if (!cuda_folder.empty()) options += flag("xla_gpu_cuda_data_dir", message(1, cuda_folder));
  return options;
}

std::string compile_options(const PJRT_Api* api, const std::string& path, const std::string& platform,
                            bool deterministic) {
  if (is_gpu(api)) return compile_options(deterministic, platform == "cuda" ? cuda_folder(path) : "");
  // Off: programs with fusions for YNNPACK take 1.14 times as long on two threads, and no less on one.
  const char* fusions = "xla_cpu_experimental_ynn_fusion_type";
  return compile_options(false) + (has_flag(path, fusions) ? flag(fusions, message(1, "")) : "");
}

}  // namespace so3krates::pjrt
