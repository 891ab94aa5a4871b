// Reading of *.so3k files; the format is described in docs/bundle.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace so3krates {

enum class DType { u8, i32, f32, f64 };
std::size_t size_of(DType dtype);

// A tensor of the file; `data` points into the bundle's memory.
struct Tensor {
  DType dtype;
  std::vector<std::int64_t> shape;
  const std::uint8_t* data;
  std::size_t bytes;
};

// Static sizes that one set of programs was lowered for.
struct Rung {
  std::int64_t rows, atoms, candidates, neighbours;
};

// Whether `rung` holds what is demanded.
bool fits(const Rung& demand, const Rung& rung);

enum class Role { input, state, output };

struct BufferSpec {
  DType dtype;
  std::vector<std::string> shape;  // each entry an integer or one of rows, atoms, candidates, neighbours
  Role role;
};

// A program with its arguments and results, or a list of buffers to refresh, or one of sums to add up over ranks.
struct Step {
  std::string run;  // empty for a refresh and a reduction
  std::vector<std::string> inputs, outputs;
  std::vector<std::string> refresh;
  std::vector<std::string> reduce;
};

// Of the electrons of all atoms, for networks that read it.
struct Electrons {
  std::vector<int> protons;          // of each element; none: the network does not read it
  int charge = 0, multiplicity = 1;  // e; unpaired electrons + 1

  // What weights of these names hold, which are numbers of the system.
  static constexpr const char *kCharge = "weights/system/charge", *kUnpaired = "weights/system/unpaired";
};

// How ranks' values of an output combine; those of atoms do not.
enum class Ranks { none, sum, min, max };

// A result that can be asked for by its name, which is that of a buffer.
struct Output {
  std::string unit, meaning;
  bool standard = false;            // computed where nobody names outputs
  bool per_atom = false;            // else of the whole system
  std::vector<std::int64_t> shape;  // of the system, or of an atom
  std::int64_t width = 1;           // entries of that shape
  Ranks ranks = Ranks::none;
  std::string problem;   // why this version cannot give it; empty: it can
  bool by_host = false;  // no program computes it, but the evaluator
};

// What the training data had at most: beyond it a potential extrapolates.
struct Limits {
  std::vector<double> distances;  // A, [elements][elements] shortest of such a pair, 0: they were never near; or none
  double largest_force = 0.0;     // eV/A; 0: not known
};

// What a potential has learnt the rest of: a host adds it (docs/baselines.md). In LAMMPS' words, of a deck whose types
// are `elements`; pair_style is empty where LAMMPS has none.
struct Baseline {
  struct Coefficients {
    std::vector<std::string> pair;  // two elements; none: all pairs
    std::string words;
  };
  std::string meaning, pair_style, kspace_style;
  std::vector<std::string> elements;
  std::vector<Coefficients> pair_coeff;
  std::map<std::string, double> charges;  // e, of elements; none: it needs no charges
};

// Programs that move rows of refreshed arrays between a device and the host, `rows` at a time.
struct Moves {
  std::int64_t rows = 0;                                          // 0: none
  std::map<std::string, std::pair<std::string, std::string>> of;  // array -> programs: take rows, put rows
};

struct Bundle {
  // path: of a file, or else the name of a potential that comes with this library.
  // Throws Error when the file is missing, damaged, truncated or newer than this reader.
  static Bundle read(const std::string& path);
  // The same from memory; `name` appears in messages.
  static Bundle parse(std::vector<std::uint8_t> bytes, const std::string& name);

  std::string path, producer, units = "metal", precision, platform, stablehlo_version, sha256;
  std::vector<std::string> elements;
  std::vector<double> energy_shifts;  // eV, one per element
  double cutoff = 0.0;                // A, of the network
  double reach = 0.0;                 // A, of candidate lists: the largest cutoff of the network and of its terms
  double atoms_reach = 0.0;           // A, at least that: how far from owned rows atoms are needed
  std::vector<std::string> terms;     // their names
  int message_passing_steps = 0;
  int kernels = 0;                        // version of the kernels that "forces" and "virials" call; 0: they call none
  int kernel_shared_bytes = 0;            // shared memory that those for a GPU need for a block
  std::vector<std::string> kernel_sizes;  // what their source is compiled with, for each schedule that calls them
  std::vector<Rung> ladder;
  std::map<std::string, Tensor> tensors;  // by full name, e.g. "weights/..." or "programs/..."
  std::map<std::string, BufferSpec> buffers;
  std::map<std::string, std::vector<std::string>> programs;  // name -> tensor per rung
  std::map<std::string, std::vector<Step>> schedules;
  Moves moves;
  std::map<std::string, Output> outputs;
  Limits limits;
  std::vector<Baseline> baselines;
  std::string baselines_text;  // the manifest's entry, as JSON; empty where there are none
  Electrons electrons;

  std::vector<std::int64_t> shape_of(const BufferSpec& buffer, const Rung& rung) const;
  // Of atoms of these elements.
  long protons_of(const int* species, int atoms) const;
  // Throws Error where the network reads no electrons, and for a multiplicity below 1.
  void set_electrons(int charge, int multiplicity);
  // Throws Error where the electrons of a system with so many protons cannot be paired as `electrons` says.
  void check_electrons(long protons) const;

 private:
  std::shared_ptr<const std::vector<std::uint8_t>> bytes_;  // shared, so that copies of a bundle stay valid
};

}  // namespace so3krates
