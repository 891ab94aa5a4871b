// From a function of a call, for float and double, to XLA's entry point.
#pragma once

#include <cstdint>
#include <exception>
#include <stdexcept>

#include "call.h"
#include "thread_sanitizer.h"

namespace so3krates::kernels {

template <void (*run_float)(Call&), void (*run_double)(Call&)>
ffi::Error handle(ffi::ThreadPool pool, ffi::RemainingArgs arguments, ffi::RemainingRets results,
                  ffi::Dictionary attributes) {
  const CallOrder order;
  try {
    Call call(pool, arguments, results, attributes);
    const std::int64_t bytes = integer(attributes, "real_bytes");
    if (bytes != 4 && bytes != 8) throw std::invalid_argument("'real_bytes' is neither 4 nor 8");
    (bytes == 4 ? run_float : run_double)(call);
  } catch (const std::exception& error) {
    return failed(error);
  }
  return ffi::Error::Success();
}

template <void (*run_float)(Call&), void (*run_double)(Call&)>
XLA_FFI_Error* entry(XLA_FFI_CallFrame* frame) {
  static auto* handler = ffi::Ffi::Bind()
                             .Ctx<ffi::ThreadPool>()
                             .RemainingArgs()
                             .RemainingRets()
                             .Attrs()
                             .To(handle<run_float, run_double>)
                             .release();
  return handler->Call(frame);
}

#define SO3KRATES_KERNEL(name) \
  {"so3krates_" #name, reinterpret_cast<void*>(entry<run_##name<float>, run_##name<double>>)}

}  // namespace so3krates::kernels
