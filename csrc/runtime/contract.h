// What every bundle and every host agree on: the format's version, and the buffers that a host fills and reads. Stated
// here alone; the exporter asks for it (agreement.h).
#pragma once

#include <string>
#include <vector>

#include "bundle.h"

namespace so3krates {

constexpr const char* kFormat = "so3krates-bundle";
constexpr int kFormatVersion = 6;
constexpr const char* kAtomCount = "atom_count";  // the input that bundles of version 4 and older do not have

struct Contract {
  std::string name;
  DType dtype;
  std::vector<std::string> shape;  // as of BufferSpec
  Role role;
  // Of a result that can be asked for; the unit is empty where there is none.
  std::string unit, ranks;
  bool standard;
  std::string meaning;

  // Whether it is of schedules with per-atom virials alone.
  bool is_of_virials() const { return role == Role::output && !unit.empty() && !standard; }
};

const std::vector<Contract>& contracts();

// numpy's.
const char* name_of(DType dtype);

}  // namespace so3krates
