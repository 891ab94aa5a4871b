// The layer below the evaluator, for tests: PJRT client, program cache, plugin search, SHA-256.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string_view>

#include "arrays.h"
#include "cuda_driver.h"
#include "cuda_kernels.h"
#include "gpu_drivers.h"
#include "host_cpu.h"
#include "pjrt.h"
#include "pjrt_target.h"
#include "plugin_search.h"
#include "program_cache.h"
#include "sha256.h"

namespace py = pybind11;
using namespace pybind11::literals;
using so3krates::dtype_of;
using so3krates::Error;
using so3krates::ProgramCache;
using so3krates::pjrt::Buffer;
using so3krates::pjrt::Client;
using so3krates::pjrt::Executable;

namespace {

Buffer borrow(Client& client, const py::array& array) {
  if ((array.flags() & py::array::c_style) == 0) throw Error("the array is not contiguous in C order");
  return client.borrow(array.data(), dtype_of(array.dtype()), {array.shape(), array.shape() + array.ndim()});
}

py::array download(const Buffer& buffer, const py::object& dtype, const std::vector<py::ssize_t>& shape) {
  py::array array(py::dtype::from_args(dtype), shape);
  buffer.download(array.mutable_data(), static_cast<std::size_t>(array.nbytes()));
  return array;
}

const std::uint8_t* bytes_of(std::string_view view) {
  return reinterpret_cast<const std::uint8_t*>(view.data());
}

}  // namespace

void bind_pjrt(py::module_& parent) {
  py::module_ m = parent.def_submodule("pjrt", "PJRT client and program cache; see csrc/runtime/pjrt.h.");

  py::class_<Buffer>(m, "Buffer")
      .def("download", &download, "dtype"_a, "shape"_a, "The first values, as an array of that dtype and shape.")
      .def_property_readonly(
          "pointer", [](const Buffer& b) { return reinterpret_cast<std::uintptr_t>(b.host_pointer()); },
          "Address of the values; 0 when they are not in host memory.");

  py::class_<Executable>(m, "Executable")
      .def("run", &Executable::run, "arguments"_a, "Donated arguments must not be used again.")
      .def("serialise", [](const Executable& e) { return py::bytes(e.serialise()); })
      .def_property_readonly("temporary_bytes", &Executable::temporary_bytes);

  py::class_<Client, std::shared_ptr<Client>>(m, "Client")
      .def(py::init([](const std::string& device, const std::string& plugin, int threads) {
             const auto [path, index, platform] = so3krates::find_plugin(device, plugin);
             return Client::create({path, index, threads, platform});
           }),
           "device"_a = "cpu", "plugin"_a = "", "threads"_a = 0)
      .def_property_readonly("platform", &Client::platform)
      .def_property_readonly("device_kind", &Client::device_kind)
      .def_property_readonly("fingerprint", &Client::fingerprint)
      .def("borrow", &borrow, "array"_a, py::keep_alive<0, 2>())
      .def(
          "allocate",
          [](Client& c, const py::object& dtype, const std::vector<std::int64_t>& shape) {
            return c.allocate(dtype_of(py::dtype::from_args(dtype)), shape);
          },
          "dtype"_a, "shape"_a)
      .def(
          "compile",
          [](Client& c, const py::bytes& artifact, const std::string& name) {
            const std::string_view view = artifact;
            return c.compile(bytes_of(view), view.size(), name);
          },
          "artifact"_a, "name"_a = "program")
      .def(
          "load",
          [](Client& c, const py::bytes& serialised, const std::string& name) {
            return c.load(std::string(serialised), name);
          },
          "serialised"_a, "name"_a = "program");

  py::class_<ProgramCache>(m, "ProgramCache")
      .def(py::init<const std::string&>(), "folder"_a = "")
      .def("find",
           [](ProgramCache& c, const std::string& key) -> py::object {
             const auto program = c.find(key);
             return program ? py::object(py::bytes(*program)) : py::none();
           })
      .def("store", [](ProgramCache& c, const std::string& key, const py::bytes& program) { c.store(key, program); })
      .def_property_readonly("folder", [](const ProgramCache& c) { return c.folder().string(); })
      .def_property_readonly("warning", &ProgramCache::warning);

  m.def(
      "compile_or_load",
      [](Client& client, ProgramCache& cache, const py::bytes& artifact, const std::string& name) {
        const std::string_view view = artifact;
        bool loaded = false;
        Executable executable = so3krates::compile_or_load(client, cache, bytes_of(view), view.size(), name, &loaded);
        return py::make_tuple(std::move(executable), loaded);
      },
      "client"_a, "cache"_a, "artifact"_a, "name"_a = "program", "Returns the program and whether the cache had it.");

  m.def(
      "find_plugin",
      [](const std::string& device, const std::string& plugin) {
        const so3krates::PluginChoice choice = so3krates::find_plugin(device, plugin);
        return py::make_tuple(choice.path, choice.device_index);
      },
      "device"_a, "plugin"_a = "");

  m.def(
      "cpu_quota",
      [](const std::string& root) {
        const so3krates::CpuQuota quota = so3krates::cpu_quota(root);
        return py::make_tuple(quota.cores, quota.group);
      },
      "root"_a = "",
      "Cores that this process' control groups pay for, 0 for all, and the group; root: of /proc and /sys.");
  m.def(
      "cores_of_process",
      [] {
        const so3krates::Cores cores = so3krates::cores_of_process();
        return py::make_tuple(cores.machine, cores.allowed(), cores.usable(), cores.limits());
      },
      "Cores of the machine, in the affinity mask, for use, and what limits them.");

  m.def("plugin_attributes", &so3krates::pjrt::plugin_attributes, "plugin"_a,
        "What a plugin says of itself; needs no device.");
  m.def("api_version", &so3krates::pjrt::api_version, "plugin"_a, "Version of the PJRT C API that a plugin speaks.");
  m.def(
      "compile_options",
      [](bool deterministic, const std::string& cuda_folder) {
        return py::bytes(so3krates::pjrt::compile_options(deterministic, cuda_folder));
      },
      "deterministic"_a, "cuda_folder"_a = "", "Serialised xla.CompileOptionsProto of every program.");
  m.def("cuda_folders", &so3krates::cuda_folders, "plugin"_a,
        "Where the programs of a plugin for CUDA may find ptxas and NVIDIA's device library, in turn.");
  m.def("cuda_folder", &so3krates::cuda_folder, "plugin"_a,
        "The first of them that has both; empty where none has, and where XLA_FLAGS name one.");
  m.def(
      "compile_for",
      [](const std::string& plugin, const std::string& target, const py::bytes& artifact, const std::string& name,
         bool deterministic, const std::string& platform) {
        const std::string_view view = artifact;
        const so3krates::pjrt::Compiled c = [&] {
          const py::gil_scoped_release unlock;
          return so3krates::pjrt::compile_for(plugin, target, bytes_of(view), view.size(), name, deterministic,
                                              platform);
        }();
        return py::dict("arguments"_a = c.arguments, "results"_a = c.results, "aliases"_a = c.aliases,
                        "temporary"_a = c.temporary, "program"_a = py::bytes(c.program));
      },
      "plugin"_a, "target"_a, "artifact"_a, "name"_a = "program", "deterministic"_a = true, "platform"_a = "cuda",
      "Bytes of memory and the optimised program (a serialised xla.HloModuleProtoWithConfig) for a device that need "
      "not be there; target: text of a stream_executor.GpuTargetConfigProto.");
  m.def(
      "struct_sizes",
      [](const std::string& plugin) {
        py::dict sizes;
        for (const auto& [name, size] : so3krates::pjrt::struct_sizes(plugin))
          sizes[py::str(name)] = py::make_tuple(size.ours, size.refusal);
        return sizes;
      },
      "plugin"_a, "Bytes of each struct that a plugin is handed, and what it says of one of no bytes.");
  m.def(
      "cuda_kernel_handler",
      [](bool has_streams) { return reinterpret_cast<std::uintptr_t>(so3krates::cuda::kernel_handler(has_streams)); },
      "has_streams"_a, "Address of the XLA FFI handler that runs GPU kernels.");
  m.def(
      "compile_cuda_kernels",
      [](const std::string& sizes, const std::string& architecture) {
        return py::bytes(so3krates::cuda::compile_kernels(sizes, architecture));
      },
      "sizes"_a, "architecture"_a = "sm_90", "Machine code of the GPU kernels, by NVRTC.");
  m.def(
      "cuda_kernel_resources",
      [](const std::string& sizes, const std::string& architecture) {
        std::string resources;
        const std::string cubin = so3krates::cuda::compile_kernels(sizes, architecture, &resources);
        return py::make_tuple(py::bytes(cubin), resources);
      },
      "sizes"_a, "architecture"_a, "Machine code, and what the assembler says of registers and memory.");
  m.def("cuda_kernel_problem", &so3krates::cuda::kernel_problem, "version"_a, "shared_bytes"_a = 0,
        "sizes"_a = std::vector<std::string>(), "device"_a = 0,
        "Why GPU kernels of that version and that much shared memory cannot run here; empty where they can.");
  m.def(
      "cuda_is_shareable",
      [](std::uintptr_t data) { return so3krates::cuda::is_shareable(reinterpret_cast<const void*>(data)); }, "data"_a,
      "Whether another process of this machine can open that memory of a GPU as MPI does.");
  m.def("nvrtc_paths", &so3krates::nvrtc_paths, "release"_a, "plugin"_a = "",
        "Where NVRTC is looked for, in that order.");
  m.def("gpu_count", &so3krates::gpu_count, "platform"_a, "GPUs that the driver of a platform shows to this process.");
  m.def("make_cuda_current", &so3krates::cuda::make_current, "index"_a,
        "Gives this thread, where it has none, the context that XLA uses on that GPU.");
  m.def("check_gpu", &so3krates::check_gpu, "platform"_a, "index"_a, "plugin"_a,
        "Raises Error where that GPU is missing or the driver is too old for the plugin.");

  m.def(
      "sha256",
      [](const std::vector<py::bytes>& pieces) {
        so3krates::Sha256 hash;
        for (const py::bytes& piece : pieces) {
          const std::string_view view = piece;
          hash.update(view.data(), view.size());
        }
        return hash.hex();
      },
      "pieces"_a, "Hexadecimal digest of the pieces, one after the other.");
}
