// Types of arrays here and in numpy.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "contract.h"
#include "error.h"

namespace so3krates {

inline pybind11::dtype numpy_dtype(DType dtype) {
  return pybind11::dtype(name_of(dtype));
}

// Throws Error for one that no buffer has.
inline DType dtype_of(const pybind11::dtype& dtype) {
  for (const DType known : {DType::u8, DType::i32, DType::f32, DType::f64})
    if (dtype.equal(numpy_dtype(known))) return known;
  throw Error("dtype " + pybind11::str(pybind11::handle(dtype)).cast<std::string>() +
              ": uint8, int32, float32 and float64 are known");
}

}  // namespace so3krates
