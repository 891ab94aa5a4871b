// The custom calls of SO3LR, for the list of kernels.
#pragma once

#include "xla/ffi/api/ffi.h"

namespace so3krates::kernels {

#define SO3KRATES_FOR_SO3LR(apply) \
  apply(normalised_layer) apply(normalised_exchange_adjoint) apply(heads) apply(heads_adjoint) apply(long_pairs)

#define SO3KRATES_DECLARE_SO3LR(name) XLA_FFI_Error* call_##name(XLA_FFI_CallFrame* frame);
SO3KRATES_FOR_SO3LR(SO3KRATES_DECLARE_SO3LR)

#define SO3KRATES_SO3LR_KERNEL(name) {"so3krates_" #name, reinterpret_cast<void*>(call_##name)},

}  // namespace so3krates::kernels
