// What the pair style does where atoms are nearer, or forces larger, than in the potential's training data, or where
// the force on an atom is more uncertain than the deck allows.
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

class PairGuard {
 public:
  enum class Mode { off, warn, stop };

  explicit PairGuard(LAMMPS* lmp) : lmp_(lmp), units_(lmp) {}

  // "off", "warn" or "stop"; false: none of them.
  bool choose(const std::string& word);
  bool is_on() const { return mode_ != Mode::off; }
  // Largest uncertainty, in units of the deck, of the force on an atom, looked at on every so many steps; 0: nobody
  // looks.
  void choose_uncertainty(double limit, bigint every);
  // Ends the run where uncertainties are to be looked at and the bundle has none.
  void read(const Bundle& bundle) const;
  // A run begins: what has been said may be said again.
  void begin_run() { has_said_pair_ = has_said_force_ = has_said_uncertainty_ = false; }
  // Adds the outputs that a step needs.
  void request(std::vector<std::string>& outputs) const;
  // Of a step. Says what is farthest from the training data, once in a run; or ends the run, and writes the frame
  // before. All ranks come here.
  void look(const Computed& computed);
  // A line for the log: what is looked at. elements: which of the bundle's atoms have.
  std::string description(const Bundle& bundle, const std::vector<bool>& elements) const;

 private:
  bool looks_at_uncertainty() const;
  void say(const std::string& what, int rank, const Computed& computed) const;
  std::string written(const std::string& reason, const Computed& computed) const;

  LAMMPS* lmp_;
  Units units_;
  Mode mode_ = Mode::warn;
  double uncertainty_ = 0.0;  // in units of the deck
  bigint every_ = 1;
  bool has_said_pair_ = false, has_said_force_ = false, has_said_uncertainty_ = false;
};

}  // namespace so3krates::deck
