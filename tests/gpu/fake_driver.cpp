// A libcuda.so.1 for tests: devices and version as the environment says.
#include <cstdlib>

namespace {
int number(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? 0 : std::atoi(value);
}
}  // namespace

extern "C" {
int cuInit(unsigned) {
  return number("FAKE_CUDA_ERROR");
}
int cuDriverGetVersion(int* version) {
  *version = number("FAKE_CUDA_VERSION");
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = number("FAKE_CUDA_DEVICES");
  return 0;
}
int cuGetErrorName(int error, const char** name) {
  *name = error == 999 ? "CUDA_ERROR_UNKNOWN" : nullptr;
  return error == 999 ? 0 : 1;
}
}
