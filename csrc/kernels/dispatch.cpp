// Chooses the instruction set.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "body.h"

namespace so3krates::kernels {

#define SO3KRATES_DECLARE(set) \
  namespace set {              \
  Body<float> body_float();    \
  Body<double> body_double();  \
  }
SO3KRATES_DECLARE(generic)
#ifdef __x86_64__
SO3KRATES_DECLARE(avx2)
SO3KRATES_DECLARE(avx512)
#endif

namespace {

struct Set {
  const char* name;
  bool is_available;
  Body<float> (*body_float)();
  Body<double> (*body_double)();
};

Set choose() {
  const Set sets[] = {
#ifdef __x86_64__
      {"avx512",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw"),
       avx512::body_float, avx512::body_double},
      {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), avx2::body_float, avx2::body_double},
#endif
      {"generic", true, generic::body_float, generic::body_double},
  };
  const char* variable = std::getenv("SO3KRATES_KERNELS");
  const std::string wanted = variable == nullptr ? "" : variable;
  for (const Set& set : sets) {
    if (wanted.empty() ? !set.is_available : wanted != set.name) continue;
    if (!set.is_available)
      throw std::runtime_error("SO3KRATES_KERNELS asks for " + wanted +
                               ", which this processor does not run: unset it for the best that it does");
    return set;
  }
  throw std::runtime_error("SO3KRATES_KERNELS is '" + wanted +
                           "': known are generic, avx2 and avx512; unset it for the best");
}

const Set& chosen() {
  static const Set set = choose();
  return set;
}

}  // namespace

template <>
const Body<float>& body<float>() {
  static const Body<float> functions = chosen().body_float();
  return functions;
}
template <>
const Body<double>& body<double>() {
  static const Body<double> functions = chosen().body_double();
  return functions;
}
const char* instruction_set() {
  return chosen().name;
}

}  // namespace so3krates::kernels
