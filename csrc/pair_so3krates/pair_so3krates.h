// pair_style so3krates: LAMMPS' atoms, neighbour lists and tallies on one side, the evaluator on the other.
#pragma once

#include <lammps/pair.h>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "deviation.h"
#include "evaluator.h"
#include "pair_guard.h"
#include "pair_outputs.h"
#include "pair_save.h"
#include "units.h"

namespace so3krates::ranks {
class Exchange;
}

namespace LAMMPS_NS {

class PairSo3krates : public Pair {
 public:
  explicit PairSo3krates(LAMMPS* lmp);
  ~PairSo3krates() override;

  void settings(int narg, char** arg) override;
  void coeff(int narg, char** arg) override;
  void init_style() override;
  double init_one(int i, int j) override;
  void compute(int eflag, int vflag) override;
  void finish() override;

  void* extract(const char* name, int& dimension) override;
  void* extract_peratom(const char* name, int& columns) override;

  int pack_forward_comm(int n, int* atoms, double* buffer, int pbc_flag, int* pbc) override;
  void unpack_forward_comm(int n, int first, double* buffer) override;
  double memory_usage() override;

 private:
  void allocate();
  void read_options(int narg, char** arg);
  void read_potential(int narg, char** arg);
  void check_deck();
  void open_evaluator();
  void log_potential() const;
  void log_report(const so3krates::Report& report);
  void log_times();

  void evaluate();
  bool lists_are_new() const;
  bool types_have_changed() const;
  bool reads_all_atoms() const { return bundle_->atoms_reach > bundle_->reach; }  // not only candidates
  void check_lists() const;
  bool is_counted(int i) const;
  void number_rows();
  void update_lists();
  void choose_electrons();
  void check_electrons() const;
  void set_neighbourhood();
  void warn_of_shifts();
  std::string name_of(int i) const;
  void tally(const so3krates::Results& results);

  so3krates::EvaluatorOptions options_;
  std::optional<bool> gpu_aware_;  // none: auto
  bool verbose_ = false;
  std::string words_;                                     // of pair_style
  std::string file_;                                      // as the deck names it
  std::unique_ptr<so3krates::Bundle> bundle_;             // changes in its electrons alone
  so3krates::Electrons own_electrons_;                    // as the file has them
  std::optional<int> charge_, multiplicity_;              // of the deck
  std::unique_ptr<so3krates::ranks::Exchange> exchange_;  // where there are other ranks
  std::unique_ptr<so3krates::Evaluator> evaluator_;
  so3krates::deck::Units units_;
  so3krates::deck::PairOutputs outputs_;
  so3krates::deck::PairGuard guard_;
  so3krates::deck::PairDeviation deviation_;
  so3krates::deck::PairSave save_;
  std::vector<int> element_of_type_;         // index into Bundle::elements, -1 for NULL; from 1
  std::vector<std::string> symbol_of_type_;  // empty for NULL
  std::vector<std::string> request_;         // of a step, besides what LAMMPS asks for

  // Row r of the evaluator is the r-th atom of LAMMPS' list that is counted; then come atoms of other ranks, each once,
  // rank after rank.
  std::vector<int> owner_rank_;            // of every atom, while rows are numbered
  std::vector<int> row_of_atom_;           // owned atoms, then ghosts; -1: of another pair style
  std::vector<int> atom_of_row_;           // [rows]
  std::vector<int> species_;               // [rows]
  int owned_ = 0;                          // rows that are this rank's
  std::vector<int> candidate_count_;       // [owned_]
  std::vector<int*> candidates_;           // [owned_]
  std::vector<int> unmasked_;              // their storage where LAMMPS' own entries carry special-bond bits
  const NeighList* known_list_ = nullptr;  // what the above was made from
  bigint known_build_ = -1;                // step at which that list was built
  int reported_climbs_ = -1;               // -1: no evaluation has been reported
  so3krates::Report reported_;             // at the end of the last run
  bool has_warned_of_shifts_ = false;
  std::set<std::string> warned_;  // of the deck, once each
};

}  // namespace LAMMPS_NS
