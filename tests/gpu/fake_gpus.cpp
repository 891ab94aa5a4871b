// The entries of AMD's HIP runtime and of Intel's Level Zero that are asked for GPUs: FAKE_GPUS of them, 1 if not given,
// or the error FAKE_GPU_ERROR. Level Zero has two drivers, of which the first has all of them.
#include <cstdint>
#include <cstdlib>

namespace {

int number(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
}

int error() {
  return number("FAKE_GPU_ERROR", 0);
}

char drivers[2];

}  // namespace

extern "C" {

int hipGetDeviceCount(int* count) {
  *count = number("FAKE_GPUS", 1);
  return error();
}

int zeInit(std::uint32_t flags) {
  return flags == 1 ? error() : 1;
}
int zeDriverGet(std::uint32_t* count, void** found) {
  for (std::uint32_t k = 0; found != nullptr && k < *count; ++k) found[k] = drivers + k;
  *count = 2;
  return 0;
}
int zeDeviceGet(void* driver, std::uint32_t* count, void**) {
  *count = driver == drivers ? number("FAKE_GPUS", 1) : 0;
  return driver == drivers || driver == drivers + 1 ? 0 : 1;
}
}
