// How far the members of a committee differ, as a line of a file on every N-th step: the format of DeePMD-kit's
// model_devi.out. Columns: step; largest, smallest and mean deviation of the virial (eV per atom, over its nine
// components, the mean a root of squares) and of the forces (eV/A, over atoms), each a standard deviation with 1/M.
#pragma once

#include <lammps/lammps.h>
#include <lammps/lmptype.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "evaluator.h"
#include "units.h"

namespace so3krates::deck {

using LAMMPS_NS::bigint;
using LAMMPS_NS::LAMMPS;

class PairDeviation {
 public:
  explicit PairDeviation(LAMMPS* lmp) : lmp_(lmp), units_(lmp) {}

  // path: of the file; empty: none is written.
  void choose(const std::string& path, bigint every);
  // Ends the run where the bundle has no committee.
  void read(const Bundle& bundle);
  // A run begins: of a file that is there, lines from this step on will be written again. All ranks come here.
  void begin_run();

  // Adds the outputs that a step needs.
  void request(std::vector<std::string>& outputs) const;
  // Of a step. All ranks come here.
  void keep(const Results& results, int owned);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  bool is_due() const;
  void open();
  void write(const double (&values)[6]);

  LAMMPS* lmp_;
  Units units_;
  std::string path_;
  bigint every_ = 1;
  std::size_t members_ = 0;
  std::unique_ptr<std::FILE, Close> file_;  // on rank 0
  bigint step_ = -1;                        // of the last line
  long place_ = 0;                          // where that line begins
};

}  // namespace so3krates::deck
