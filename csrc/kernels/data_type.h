// XLA's names of the types of numbers.
#pragma once

#include "xla/ffi/api/ffi.h"

namespace so3krates::kernels {

template <typename T>
constexpr xla::ffi::DataType kDataType = xla::ffi::DataType::S32;
template <>
constexpr xla::ffi::DataType kDataType<float> = xla::ffi::DataType::F32;
template <>
constexpr xla::ffi::DataType kDataType<double> = xla::ffi::DataType::F64;

}  // namespace so3krates::kernels
