// The custom calls of training, for the list of kernels.
#pragma once

#include "xla/ffi/api/ffi.h"

namespace so3krates::kernels {

#define SO3KRATES_FOR_ATTENTION(apply) \
  apply(attend) apply(attend_adjoint) apply(attend_second) apply(gather) apply(gather_adjoint) apply(gather_second)

#define SO3KRATES_DECLARE_CALL(name) XLA_FFI_Error* call_##name(XLA_FFI_CallFrame* frame);
SO3KRATES_FOR_ATTENTION(SO3KRATES_DECLARE_CALL)

#define SO3KRATES_ATTENTION_KERNEL(name) {"so3krates_" #name, reinterpret_cast<void*>(call_##name)},

}  // namespace so3krates::kernels
