// Products [8 halves][8 steps] x [8 steps][8] by matrix.h on the host: macros HOST_CUDA, its path, and REAL.
#include HOST_CUDA

#include "matrix.h"

constexpr int kHalves = 2;
constexpr unsigned kLanes = 32;

// a [16][8 steps], b [8 steps][8], steps, whether rests are multiplied too -> d [16][8]
static void product(const REAL* a, const REAL* b, int steps, bool with_rests, REAL* d) {
  const int group = threadIdx.x / 4, own = threadIdx.x % 4;
  REAL sums[2 * kHalves] = {}, rests[2 * kHalves] = {};
  for (int s = 0; s < steps; ++s) {
    REAL fragment[2 * kHalves];
    for (int half = 0; half < kHalves; ++half)
      for (int k = 0; k < 2; ++k)
        fragment[k * kHalves + half] = a[(8 * half + group) * 8 * steps + 8 * s + own + 4 * k];
    const REAL *b0 = b + (8 * s + own) * 8 + group, *b1 = b0 + 4 * 8;
    if (with_rests) so3krates::multiply_rests(rests, fragment, *b0, *b1);
    so3krates::multiply_leading(sums, fragment, *b0, *b1);
  }
  for (int half = 0; half < kHalves; ++half)
    for (int k = 0; k < 2; ++k) d[(8 * half + group) * 8 + 2 * own + k] = sums[2 * half + k] + rests[2 * half + k];
}

static void run(void** p) {
  host_cuda::call(product, p);
}
extern "C" void multiply(const REAL* a, const REAL* b, int steps, bool with_rests, REAL* d) {
  void* values[] = {&a, &b, &steps, &with_rests, &d};
  host_cuda::launch(run, 1, kLanes, values);
}
