// Outputs of a bundle besides energy, forces and virials, as LAMMPS asks for them: those of atoms by `fix pair`, those
// of the whole system by `compute pair`, in units of the deck. Only what is asked for on a step is computed.
#pragma once

#include <lammps/lammps.h>
#include <lammps/lmptype.h>

#include <map>
#include <string>
#include <vector>

#include "evaluator.h"
#include "units.h"

namespace so3krates::deck {

using LAMMPS_NS::bigint;
using LAMMPS_NS::LAMMPS;

class PairOutputs {
 public:
  explicit PairOutputs(LAMMPS* lmp) : lmp_(lmp), units_(lmp) {}

  // The bundle that names are of from now on; borrowed. Addresses that LAMMPS has taken stay valid.
  void read(const Bundle& bundle);

  // What a step computes; `others`: names that the style itself wants. All ranks have the same answer.
  const std::vector<std::string>& request(bool with_virials, bool with_energy, const std::vector<std::string>& others);
  // Takes the extra results of a step. All ranks come here.
  void keep(const Results& results, const std::vector<int>& atom_of_row, int owned);

  // For Pair::extract and Pair::extract_peratom: NAME, or NAME[K] of one with several entries.
  int* flag(const std::string& name);
  double* values(const std::string& name);

  // For Pair::nextra and Pair::pvector: all entries of the system's outputs in the order of their names.
  int system_size() const { return system_size_; }
  double* system_values() { return system_values_.data(); }
  // "[1] NAME, ..." of these; empty: there are none.
  std::string system_names() const;

 private:
  struct Field {
    std::string output;
    int entry = 0, width = 1;
    int flag = 0;  // whether the step wants it
    std::vector<double> values;
    bigint step = -1;  // on which they were computed
  };

  Field* find(const std::string& name);
  bool has_compute() const;

  LAMMPS* lmp_;
  Units units_;
  const Bundle* bundle_ = nullptr;
  std::vector<std::string> standard_, system_, request_;  // names
  int system_size_ = 0;
  std::vector<double> system_values_;
  std::map<std::string, Field> fields_;  // that LAMMPS has asked for; a map keeps addresses
};

}  // namespace so3krates::deck
