// Energies and forces from a bundle, on any PJRT device. This header is what a host program needs.
//
//   so3krates::Bundle bundle = so3krates::Bundle::read("gan.so3k");
//   so3krates::Evaluator evaluator(bundle, {});
//   evaluator.set_neighbourhood(neighbourhood);               // whenever atoms or candidate lists change
//   const so3krates::Results &r = evaluator.evaluate(positions);   // every step
//
// Every failure is a so3krates::Error whose message says what happened and what to do. Not thread safe.
#pragma once

#include <cstddef>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bundle.h"

namespace so3krates {

// Of the CPU kernels that this runtime has: bundles that call another are refused.
extern const int kCpuKernelVersion;

struct EvaluatorOptions {
  std::string device = "cpu";        // "cpu", "cuda", "rocm", "oneapi", the last three also with ":INDEX"
  std::string plugin;                // path of the PJRT plugin; empty: the one installed for the device
  std::string cache;                 // folder of compiled programs; empty: the user's cache folder; "off": none
  int threads = 0;                   // host threads of the CPU device; 0: every core this process may use
  bool has_default_threads = false;  // whether the host program chose that number, not its user
  double memory = 0.9;               // largest share of a GPU's memory that is taken
  bool preallocate = false;          // take that share of a GPU's memory at once, not as it is needed
  int local_rank = 0;          // of this process among those of its machine: "cuda" gives each the next GPU in turn
  bool deterministic = true;   // on a GPU, results equal to the bit in every run; else XLA times kernels first
  bool shifts = true;          // whether energies hold the bundle's energy shifts
  bool small_virials = false;  // per-atom virials in about half of the memory, and more slowly; from bundles for a CPU
  bool guard = true;           // whether every evaluation looks how far it is from the training data
};

// Another rank, and the rows that the two exchange.
struct Peer {
  int rank = 0;
  const int* sent = nullptr;  // [sent_count] own rows that it reads, in the order in which it has them
  int sent_count = 0;
  int received_count = 0;  // rows of its that are read here: in [owned, rows), behind those of the peers before
  // Where they begin on the other side: those sent among its rows of other ranks, those received among all that it
  // sends.
  int sent_place = 0, received_place = 0;
};

// Atoms and candidate lists as the host sees them. All pointers are borrowed for the duration of the call.
struct Neighbourhood {
  int owned = 0;  // rows [0, owned) are computed here
  int rows = 0;   // rows [owned, rows) belong to other ranks
  int atoms = 0;  // positions, periodic images included
  // [atoms] row of each atom; an image has its original's row; -1: neither a candidate nor within Bundle::atoms_reach.
  const int* row_of_atom = nullptr;
  const int* atom_of_row = nullptr;      // [rows] atom whose position is the row's
  const int* species = nullptr;          // [rows] index into Bundle::elements
  const int* candidate_count = nullptr;  // [owned]
  const int* const* candidates =
      nullptr;                  // [owned][candidate_count] atoms within reach + skin, both directions of each pair
  const Peer* peers = nullptr;  // [peer_count] ranks that this one sends rows to or has rows of
  int peer_count = 0;
  // A, how much nearer two atoms may come before there are new lists; infinite: not known.
  double skin = std::numeric_limits<double>::infinity();
};

// Bytes to or from another rank.
struct Message {
  int rank;
  void* data;
  std::size_t bytes;
};

// Carries rows between ranks.
class Halo {
 public:
  virtual ~Halo() = default;
  // Returns when all is sent and received. Messages from one rank to another are in the same order on both. All ranks
  // come here the same number of times in an evaluation.
  virtual void exchange(const std::vector<Message>& sent, const std::vector<Message>& received) = 0;
  // Whether `reduce` is there.
  virtual bool adds_up() const { return false; }
  // Sums over all ranks in place of each rank's own. All ranks come here the same number of times in an evaluation.
  virtual void reduce(double* /*values*/, std::size_t /*count*/) {}
  // Whether messages may lie in the device's memory.
  virtual bool takes_device_memory() const { return false; }
  // Of a GPU: whether only memory that other processes of the machine can open (legacy CUDA IPC).
  virtual bool takes_only_shareable() const { return false; }
};

// The pair and the force of an evaluation that are farthest from the training data (guard.h), on this rank.
struct Sighting {
  double closest_ratio = 1.0;                  // of a distance to the shortest in the data; 1: none is shorter
  double close_pairs = 0.0;                    // below the margin; half of those whose other atom is no row of its own
  int first = -1, second = -1;                 // atoms of the closest pair, -1: none is shorter
  double distance = 0.0, seen_distance = 0.0;  // A, its own and that of the data
  double force = 0.0, seen_force = 0.0;        // eV/A, the largest, where forces are computed, and that of the data
  int force_atom = -1;                         // where it is beyond the margin

  bool has_close_pair() const;
  bool has_large_force() const;
  // What to say of them, where there are.
  StructureError about_pair(const StructureError::NameOf& name_of) const;
  StructureError about_force(const StructureError::NameOf& name_of) const;
};

// What was asked for; the rest is zero or null. Pointers stay valid until the next call of evaluate or
// set_neighbourhood.
struct Results {
  double energy = 0.0;                    // eV, sum over owned rows
  const double* atom_energies = nullptr;  // [owned] eV
  const double* forces = nullptr;         // [owned][3] eV/A
  const double* atom_virials = nullptr;   // [owned][3][3] eV, [position component][force component]
  double strain_gradient[3][3] =
      {};  // eV, dE/d(strain), [position component][force component]; stress = this / volume (ASE sign)

  // Any output by its name: [owned][width] for each atom, or [width] of the system, of this rank's part: the host
  // combines ranks (Output::ranks). Null where it was not asked for.
  const double* find(const std::string& name) const;

  std::vector<std::pair<std::string, const double*>> values;  // where `find` looks
  const Sighting* sighting = nullptr;                         // null: nobody looks, or the bundle has no limits
};

// What the evaluator holds and has done, for logs.
struct Report {
  int gpus = 0;               // from which ranks take one in turn, where this is not the first of them
  std::string platform;       // e.g. "cpu: AMD EPYC ..., 2 threads"
  std::string body_note;      // why the portable programs run in place of the GPU kernels; empty: they do not
  std::size_t rung_rows = 0;  // capacities of the rung in use
  std::size_t rung_atoms = 0;
  std::size_t rung_candidates = 0;
  std::size_t rung_neighbours = 0;
  std::size_t buffer_bytes =
      0;  // arrays on the device at that rung (address space; untouched pages cost nothing on a CPU)
  std::size_t temporary_bytes = 0;  // largest scratch memory of a program
  double compile_seconds = 0.0;     // spent in compiling or loading programs so far
  int programs_compiled = 0;        // by XLA
  int programs_loaded = 0;          // from the cache
  int climbs = 0;                   // times a capacity was outgrown
  std::string cache_warning;        // why compiled programs are not kept on disk; empty: they are, or need not be
  std::string unread_variables;     // names in the environment that are ours but misspelt; empty: none
  int evaluations = 0;              // done so far
  int virial_evaluations = 0;       // of these, with per-atom virials
  std::string pin_problem;          // why host memory is not pinned for the device; empty: it is
  std::string halo_problem;         // why rows go through the host though the halo takes device memory; or empty
  std::string halo_memory;          // by which rows go between ranks and a device; empty: in place, or not yet
  // Seconds of host time so far: candidate lists, programs (on a CPU: until they are done), refreshes, results.
  double list_seconds = 0.0, program_seconds = 0.0, halo_seconds = 0.0, result_seconds = 0.0;
  double wait_seconds = 0.0;  // of program_seconds, after all programs of an evaluation had been started
  // Whole evaluations, without new candidate lists; of these, the guard's pass over near pairs.
  double evaluation_seconds = 0.0, guard_seconds = 0.0;
  std::size_t halo_bytes = 0;  // of rows of other ranks received so far
};

class Evaluator {
 public:
  // The bundle is copied; the bytes behind it are shared.
  Evaluator(const Bundle& bundle, const EvaluatorOptions& options);
  ~Evaluator();
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

  // From the next evaluation on; before, those of the bundle. Throws Error where it reads none.
  void set_electrons(int charge, int multiplicity);
  void set_neighbourhood(const Neighbourhood& neighbourhood);
  // positions: [atoms][3] in A, borrowed for the call. halo: required when rows > owned. outputs: names of what is
  // wanted, the same on all ranks, and only what these need is computed; empty: the standard ones (Output::standard).
  // "atom_virials" is the only one of all potentials that is not: a step with it costs about twice as much.
  const Results& evaluate(const double* positions, Halo* halo = nullptr, const std::vector<std::string>& outputs = {});
  // What can be asked for, but for those with a problem, which say it where they are asked for.
  const std::map<std::string, Output>& outputs() const;
  // As atoms of positions are called in messages.
  std::string name_of(int atom) const;
  const Report& report() const;

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace so3krates
