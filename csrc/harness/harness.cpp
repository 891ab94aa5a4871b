// Python module so3krates._harness: bundle and evaluator as they are, arrays in and out.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "agreement.h"
#include "arrays.h"
#include "bundle.h"
#include "contract.h"
#include "cuda_kernels.h"
#include "error.h"
#include "evaluator.h"
#include "structure_checks.h"

namespace py = pybind11;
using namespace pybind11::literals;
using so3krates::Bundle;
using so3krates::Error;
using so3krates::numpy_dtype;

void bind_pjrt(py::module_&);

namespace {

using Integers = py::array_t<int, py::array::c_style | py::array::forcecast>;
using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;

// The buffers that a host fills and reads, as in a manifest.
py::dict contract_of(so3krates::Role role) {
  py::dict buffers;
  for (const so3krates::Contract& contract : so3krates::contracts()) {
    if (contract.role != role) continue;
    py::list shape;
    for (const std::string& size : contract.shape) {
      const bool is_number = size.find_first_not_of("0123456789") == std::string::npos;
      shape.append(is_number ? py::object(py::int_(std::stoi(size))) : py::object(py::str(size)));
    }
    py::dict buffer("dtype"_a = so3krates::name_of(contract.dtype), "shape"_a = shape);
    if (!contract.unit.empty())
      buffer["output"] = py::dict("unit"_a = contract.unit, "ranks"_a = contract.ranks,
                                  "standard"_a = contract.standard, "meaning"_a = contract.meaning);
    buffers[py::str(contract.name)] = buffer;
  }
  return buffers;
}

py::object os(const char* function) {
  return py::module_::import("os").attr(function);
}

// A path as the system has it, which may be no UTF-8.
std::string path_of(const py::object& path) {
  std::string bytes = py::bytes(os("fsencode")(path));
  if (bytes.find('\0') != std::string::npos)
    throw Error("the path " + py::repr(path).cast<std::string>() + " holds a NUL");
  return bytes;
}

py::dict tensors_of(const Bundle& bundle) {
  py::dict tensors;
  for (const auto& [name, tensor] : bundle.tensors) {
    py::array array(numpy_dtype(tensor.dtype), tensor.shape);
    std::memcpy(array.mutable_data(), tensor.data, tensor.bytes);
    tensors[py::str(name)] = array;
  }
  return tensors;
}

py::list ladder_of(const Bundle& bundle) {
  py::list ladder;
  for (const so3krates::Rung& rung : bundle.ladder)
    ladder.append(py::dict("rows"_a = rung.rows, "atoms"_a = rung.atoms, "candidates"_a = rung.candidates,
                           "neighbours"_a = rung.neighbours));
  return ladder;
}

// "none", "sum", "min", "max": as a manifest has them.
const char* ranks_of(const so3krates::Output& output) {
  constexpr const char* kNames[] = {"none", "sum", "min", "max"};
  return kNames[static_cast<int>(output.ranks)];
}

py::dict outputs_of(const Bundle& bundle) {
  py::dict outputs;
  for (const auto& [name, output] : bundle.outputs)
    outputs[py::str(name)] =
        py::dict("unit"_a = output.unit, "meaning"_a = output.meaning, "ranks"_a = ranks_of(output),
                 "standard"_a = output.standard, "per_atom"_a = output.per_atom,
                 "shape"_a = py::tuple(py::cast(output.shape)), "problem"_a = output.problem);
  return outputs;
}

// What the guard says of a nearest pair, of a largest force: their numbers, those of the training data, names of atoms.
std::vector<std::string> extrapolations(double distance, double seen_distance, const std::array<std::string, 2>& pair,
                                        double force, double seen_force, const std::string& atom) {
  so3krates::Sighting sighting;
  std::vector<std::string> texts;
  if (seen_distance > 0.0) sighting.closest_ratio = distance / seen_distance;
  sighting.first = 0;
  sighting.second = 1;
  sighting.distance = distance;
  sighting.seen_distance = seen_distance;
  sighting.force = force;
  sighting.seen_force = seen_force;
  sighting.force_atom = 0;
  if (sighting.has_close_pair()) texts.emplace_back(sighting.about_pair([&](int i) { return pair.at(i); }).what());
  if (sighting.has_large_force()) texts.emplace_back(sighting.about_force([&](int) { return atom; }).what());
  return texts;
}

// A Python callable f(sent, received) of messages: rank and uint8 [bytes], in the evaluator's own memory.
class PythonHalo : public so3krates::Halo {
 public:
  PythonHalo(py::function function, std::optional<py::function> reduce, bool takes_device_memory, bool only_shareable)
      : function_(std::move(function)),
        reduce_(std::move(reduce)),
        takes_device_memory_(takes_device_memory),
        takes_only_shareable_(only_shareable) {}
  void exchange(const std::vector<so3krates::Message>& sent, const std::vector<so3krates::Message>& received) override {
    const py::gil_scoped_acquire lock;
    function_(views(sent), views(received));
  }
  bool adds_up() const override { return reduce_.has_value(); }
  void reduce(double* values, std::size_t count) override {
    const py::gil_scoped_acquire lock;
    const py::capsule not_owned(values, [](void*) {});
    (*reduce_)(py::array_t<double>(static_cast<py::ssize_t>(count), values, not_owned));
  }
  bool takes_device_memory() const override { return takes_device_memory_; }
  bool takes_only_shareable() const override { return takes_only_shareable_; }

 private:
  static py::list views(const std::vector<so3krates::Message>& messages) {
    py::list list;
    for (const so3krates::Message& message : messages) {
      const py::capsule not_owned(message.data, [](void*) {});
      list.append(
          py::make_tuple(message.rank, py::array_t<std::uint8_t>(static_cast<py::ssize_t>(message.bytes),
                                                                 static_cast<std::uint8_t*>(message.data), not_owned)));
    }
    return list;
  }

  py::function function_;
  std::optional<py::function> reduce_;
  const bool takes_device_memory_, takes_only_shareable_;
};

class Evaluator {
 public:
  Evaluator(const std::string& path, const so3krates::EvaluatorOptions& options)
      : bundle_(Bundle::read(path)), evaluator_(bundle_, options) {}

  const Bundle& bundle() const { return bundle_; }

  void set_electrons(int charge, int multiplicity) {
    const auto lock = turn();
    evaluator_.set_electrons(charge, multiplicity);
  }

  void set_neighbourhood(int owned, int rows, const Integers& row_of_atom, const Integers& atom_of_row,
                         const Integers& species, const Integers& candidate_count, const Integers& candidates,
                         const std::vector<std::tuple<int, Integers, int, int, int>>& peers, double skin) {
    require(atom_of_row.size() == rows && species.size() == rows, "atom_of_row and species need one entry per row");
    require(candidate_count.size() == owned, "candidate_count needs one entry per owned row");
    std::vector<const int*> lists;
    py::ssize_t total = 0;
    for (int i = 0; i < owned; ++i) {
      require(candidate_count.data()[i] >= 0, "candidate_count must not be negative");
      lists.push_back(candidates.data() + total);
      total += candidate_count.data()[i];
      require(total <= candidates.size(), "candidates needs one entry for each that candidate_count names");
    }
    so3krates::Neighbourhood n;
    n.owned = owned;
    n.rows = rows;
    n.atoms = static_cast<int>(row_of_atom.size());
    n.row_of_atom = row_of_atom.data();
    n.atom_of_row = atom_of_row.data();
    n.species = species.data();
    n.candidate_count = candidate_count.data();
    n.candidates = lists.data();
    std::vector<so3krates::Peer> all;
    for (const auto& [rank, sent, received, sent_place, received_place] : peers)
      all.push_back({rank, sent.data(), static_cast<int>(sent.size()), received, sent_place, received_place});
    n.peers = all.data();
    n.peer_count = static_cast<int>(all.size());
    n.skin = skin;
    const auto lock = turn();
    {
      const py::gil_scoped_release unlock;
      evaluator_.set_neighbourhood(n);
    }
    owned_ = owned;
    atoms_ = n.atoms;
  }

  py::dict evaluate(const Doubles& positions, const std::optional<py::function>& halo,
                    const std::vector<std::string>& outputs, bool device_memory, bool only_shareable,
                    const std::optional<py::function>& reduce) {
    const auto lock = turn();
    require(positions.ndim() == 2 && positions.shape(0) == atoms_ && positions.shape(1) == 3,
            "positions must have the shape [" + std::to_string(atoms_) + ", 3] of the neighbourhood");
    std::unique_ptr<PythonHalo> python_halo;
    if (halo) python_halo = std::make_unique<PythonHalo>(*halo, reduce, device_memory, only_shareable);
    extrapolations_.clear();
    const so3krates::Results& results = [&]() -> const so3krates::Results& {
      const py::gil_scoped_release unlock;
      return evaluator_.evaluate(positions.data(), python_halo.get(), outputs);
    }();
    const auto name_of = [this](int atom) { return evaluator_.name_of(atom); };
    if (results.sighting != nullptr && results.sighting->has_close_pair())
      extrapolations_.emplace_back(results.sighting->about_pair(name_of).what());
    if (results.sighting != nullptr && results.sighting->has_large_force())
      extrapolations_.emplace_back(results.sighting->about_force(name_of).what());
    py::dict found;
    for (const auto& [name, values] : results.values) {
      const so3krates::Output& output = bundle_.outputs.at(name);
      std::vector<py::ssize_t> shape(output.shape.begin(), output.shape.end());
      if (output.per_atom) shape.insert(shape.begin(), owned_);
      found[py::str(name)] = shape.empty() ? py::object(py::float_(*values)) : py::object(Doubles(shape, values));
    }
    return found;
  }

  // What of the last evaluation is beyond the training data, in words.
  std::vector<std::string> extrapolations() {
    const auto lock = turn();
    return extrapolations_;
  }

  py::dict report() {
    const auto lock = turn();
    const so3krates::Report& r = evaluator_.report();
    return py::dict(
        "platform"_a = r.platform, "body_note"_a = r.body_note, "rung_rows"_a = r.rung_rows,
        "rung_atoms"_a = r.rung_atoms, "rung_candidates"_a = r.rung_candidates, "rung_neighbours"_a = r.rung_neighbours,
        "buffer_bytes"_a = r.buffer_bytes, "temporary_bytes"_a = r.temporary_bytes,
        "compile_seconds"_a = r.compile_seconds, "programs_compiled"_a = r.programs_compiled,
        "programs_loaded"_a = r.programs_loaded, "climbs"_a = r.climbs, "cache_warning"_a = r.cache_warning,
        "unread_variables"_a = r.unread_variables, "evaluations"_a = r.evaluations,
        "virial_evaluations"_a = r.virial_evaluations, "pin_problem"_a = r.pin_problem,
        "halo_problem"_a = r.halo_problem, "halo_memory"_a = r.halo_memory, "halo_bytes"_a = r.halo_bytes,
        "wait_seconds"_a = r.wait_seconds, "list_seconds"_a = r.list_seconds, "program_seconds"_a = r.program_seconds,
        "halo_seconds"_a = r.halo_seconds, "result_seconds"_a = r.result_seconds,
        "evaluation_seconds"_a = r.evaluation_seconds, "guard_seconds"_a = r.guard_seconds);
  }

 private:
  static void require(bool condition, const std::string& message) {
    if (!condition) throw py::value_error(message);
  }

  // One thread at a time; the others wait without the GIL, which the one needs.
  std::unique_lock<std::recursive_mutex> turn() {
    const py::gil_scoped_release unlock;
    return std::unique_lock<std::recursive_mutex>(mutex_);
  }

  std::recursive_mutex mutex_;  // a halo may ask for a report
  Bundle bundle_;
  so3krates::Evaluator evaluator_;
  py::ssize_t owned_ = 0, atoms_ = 0;
  std::vector<std::string> extrapolations_;
};

}  // namespace

PYBIND11_MODULE(_harness, m) {
  m.doc() = "The C++ runtime without LAMMPS: Bundle, Evaluator, and the PJRT client below them.";
  static PyObject* error = py::exception<Error>(m, "Error", PyExc_RuntimeError).release().ptr();
  const py::tuple bases = py::make_tuple(py::handle(error), py::handle(PyExc_ValueError));
  static PyObject* structure_error =
      py::exception<so3krates::StructureError>(m, "StructureError", bases).release().ptr();
  // pybind11 fixes the type of the parameter. NOLINTNEXTLINE(performance-unnecessary-value-param)
  py::register_exception_translator([](std::exception_ptr thrown) {
    const auto raise = [](PyObject* type, const char* text) {
      // Paths in messages may be no UTF-8.
      PyObject* message = PyUnicode_DecodeUTF8(text, static_cast<Py_ssize_t>(std::strlen(text)), "backslashreplace");
      PyErr_SetObject(type, message);
      Py_XDECREF(message);
    };
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const so3krates::StructureError& failure) {
      raise(structure_error, failure.what());
    } catch (const Error& failure) {
      raise(error, failure.what());
    }
  });
  m.def(
      "check_positions",
      [](const Doubles& positions, const std::vector<std::string>& symbols) {
        if (static_cast<std::size_t>(positions.size()) != 3 * symbols.size())
          throw Error(std::to_string(positions.size()) + " coordinates for " + std::to_string(symbols.size()) +
                      " atoms");
        const auto name = [&](int i) { return "atom " + std::to_string(i) + " (" + symbols.at(i) + ")"; };
        so3krates::check_positions(positions.data(), static_cast<int>(symbols.size()), nullptr, name);
      },
      "positions"_a, "symbols"_a, "Raises StructureError where one of the positions [atoms, 3] is not finite.");
  m.def(
      "check_pair",
      [](const std::array<std::array<double, 3>, 2>& positions, const std::array<std::string, 2>& names) {
        so3krates::check_distances(positions[0].data(), {{0, 1}}, [&](int i) { return names.at(i); });
      },
      "positions"_a, "names"_a, "Raises StructureError where two atoms (A) are at the same place.");

  m.def("extrapolations", &extrapolations, "distance"_a, "seen_distance"_a, "pair"_a, "force"_a, "seen_force"_a,
        "atom"_a,
        "What csrc/runtime/guard.h says of a pair (A) and of a force (eV/A) beside those of the training data, 0: not "
        "known.");

  m.attr("BUNDLE_FORMAT") = so3krates::kFormat;
  m.attr("BUNDLE_VERSION") = so3krates::kFormatVersion;
  m.attr("BUNDLE_INPUTS") = contract_of(so3krates::Role::input);
  m.attr("BUNDLE_OUTPUTS") = contract_of(so3krates::Role::output);
  m.attr("GPU_KERNEL_CALL") = so3krates::cuda::kCall;
  m.def("kernel_constants", &so3krates::kernel_constants);
  m.def("kernel_cutoff_functions", &so3krates::kernel_cutoff_functions);
  m.def("kernel_widths", &so3krates::kernel_widths, "features"_a, "heads"_a, "degrees"_a, "hidden"_a, "readout"_a,
        "See csrc/runtime/agreement.h.");

  py::class_<Bundle>(m, "Bundle", "A verified bundle, as C++ reads it.")
      .def_static(
          "read", [](const py::object& path) { return Bundle::read(path_of(path)); }, "path"_a)
      .def_static(
          "parse",
          [](const py::bytes& data, const std::string& name) {
            const std::string_view view = data;
            return Bundle::parse(std::vector<std::uint8_t>(view.begin(), view.end()), name);
          },
          "data"_a, "name"_a = "bundle")
      .def_property_readonly("path", [](const Bundle& b) { return os("fsdecode")(py::bytes(b.path)); })
      .def_readonly("producer", &Bundle::producer)
      .def_readonly("units", &Bundle::units)
      .def_readonly("precision", &Bundle::precision)
      .def_readonly("platform", &Bundle::platform)
      .def_readonly("stablehlo_version", &Bundle::stablehlo_version)
      .def_readonly("sha256", &Bundle::sha256)
      .def_readonly("elements", &Bundle::elements)
      .def_readonly("energy_shifts", &Bundle::energy_shifts, "eV, one per element")
      .def_readonly("cutoff", &Bundle::cutoff, "A, of the network")
      .def_readonly("reach", &Bundle::reach, "A, of candidate lists")
      .def_readonly("atoms_reach", &Bundle::atoms_reach, "A, how far from owned rows atoms are needed")
      .def_property_readonly(
          "electrons",
          [](const Bundle& b) -> std::optional<std::pair<int, int>> {
            if (b.electrons.protons.empty()) return std::nullopt;
            return std::pair{b.electrons.charge, b.electrons.multiplicity};
          },
          "total charge (e) and multiplicity that it is for; None: it reads neither")
      .def_readonly("baselines", &Bundle::baselines_text, "the manifest's entry, as JSON; empty: none")
      .def_readonly("message_passing_steps", &Bundle::message_passing_steps)
      .def_readonly("programs", &Bundle::programs)
      .def_property_readonly("ladder", &ladder_of)
      .def_property_readonly("outputs", &outputs_of)
      .def_property_readonly("tensors", &tensors_of);

  py::class_<Evaluator>(m, "Evaluator", "Energies and forces of a bundle; see csrc/runtime/evaluator.h.")
      .def(py::init([](const py::object& path, const std::string& device, const py::object& plugin,
                       const py::object& cache, int threads, double memory, bool preallocate, bool shifts,
                       bool deterministic, bool guard, bool small_virials) {
             const so3krates::EvaluatorOptions options{device,        path_of(plugin), path_of(cache), threads,
                                                       false,         memory,          preallocate,    0,
                                                       deterministic, shifts,          small_virials,  guard};
             return std::make_unique<Evaluator>(path_of(path), options);
           }),
           "bundle_path"_a, "device"_a = "cpu", "plugin"_a = "", "cache"_a = "", "threads"_a = 0, "memory"_a = 0.9,
           "preallocate"_a = false, "shifts"_a = true, "deterministic"_a = true, "guard"_a = true,
           "small_virials"_a = false)
      .def_property_readonly("bundle", &Evaluator::bundle)
      .def("set_electrons", &Evaluator::set_electrons, "charge"_a, "multiplicity"_a,
           "Of the system, from the next evaluation on; before, those of the bundle.")
      .def(
          "set_neighbourhood", &Evaluator::set_neighbourhood, "owned"_a, "rows"_a, "row_of_atom"_a, "atom_of_row"_a,
          "species"_a, "candidate_count"_a, "candidates"_a,
          "peers"_a = std::vector<std::tuple<int, Integers, int, int, int>>(),
          "skin"_a = std::numeric_limits<double>::infinity(),
          "Candidates are concatenated over the owned rows. A peer is (rank, rows sent, number of rows received, place "
          "there of the sent, of the received). skin: how much nearer (A) two atoms may come before there are new "
          "lists. "
          "All arrays are copied.")
      .def(
          "evaluate", &Evaluator::evaluate, "positions"_a, "halo"_a = py::none(),
          "outputs"_a = std::vector<std::string>(), "device_memory"_a = false, "only_shareable"_a = false,
          "reduce"_a = py::none(),
          "positions: [atoms, 3] A. Returns the outputs of the bundle by name, those named or the standard ones: "
          "numbers "
          "and arrays of the system, (owned, ...) for atoms. halo(sent, received) carries messages (rank, uint8 "
          "array), from and to the memory of the device where device_memory says that it takes that, of a GPU "
          "only if other processes can open it, where only_shareable says so. reduce(values) adds up the values of all "
          "ranks, in place.")
      .def("extrapolations", &Evaluator::extrapolations,
           "What of the last evaluation is beyond the training data (csrc/runtime/guard.h), in words.")
      .def("report", &Evaluator::report);

  bind_pjrt(m);
}
