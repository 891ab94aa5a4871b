// What the exporter must know of this runtime: stated here and in kernels/layout.h, and nowhere in Python.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace so3krates {

// Versions of the kernels for CPUs and GPUs, and sizes of the layout that no network changes.
std::map<std::string, std::int64_t> kernel_constants();
// Cutoff functions of the kernels, in the order of their numbers.
std::vector<std::string> kernel_cutoff_functions();
// Widths and strides of rows, by the names in kernels/layout.h. hidden: of one degree filter, readout: of the energy
// head. Throws Error for a network that the kernels do not compute.
std::map<std::string, std::int64_t> kernel_widths(int features, int heads, const std::vector<std::int64_t>& degrees,
                                                  int hidden, int readout);

}  // namespace so3krates
