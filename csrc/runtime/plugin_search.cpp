// Plugins lie where pip puts them: in the site-packages folder that this library is in.
#include "plugin_search.h"

#include <dlfcn.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>
#include <system_error>
#include <vector>

#include "environment.h"

namespace so3krates {
namespace {

namespace fs = std::filesystem;

// The site-packages folder that holds the shared library of this function, in so3krates/lib.
fs::path site_packages() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&find_plugin), &info) == 0 || info.dli_fname == nullptr)
    throw Error("finding the folder of the so3krates library failed: give the plugin's path");
  std::error_code error;
  const fs::path library = fs::canonical(info.dli_fname, error);
  if (error) throw Error(std::string("finding the folder of ") + info.dli_fname + " failed: " + error.message());
  return library.parent_path().parent_path().parent_path();
}

struct Kind {
  const char* name;
  const char* variable;
  std::string remedy;
  std::vector<fs::path> places;  // relative to site-packages
};

std::vector<Kind> kinds() {
  return {
      {"cpu", "SO3KRATES_PJRT_CPU", pip_install(SO3KRATES_CPU_RUNTIME), {"fastatomstruct_xla_cpu/libpjrt_cpu.so"}},
      {"cuda",
       "SO3KRATES_PJRT_CUDA",
       pip_install("so3krates[cuda12]") + " (or [cuda13], where nvidia-smi shows CUDA 13)",
       {"jax_plugins/xla_cuda13/xla_cuda_plugin.so", "jax_plugins/xla_cuda12/xla_cuda_plugin.so"}},
      {"rocm",
       "SO3KRATES_PJRT_ROCM",
       pip_install("so3krates[rocm7]"),
       {"jax_plugins/xla_rocm10/xla_rocm_plugin.so", "jax_plugins/xla_rocm7/xla_rocm_plugin.so"}},
      {"oneapi",
       "SO3KRATES_PJRT_ONEAPI",
       pip_install("so3krates[oneapi]"),
       {"jax_plugins/xla_oneapi/xla_oneapi_plugin.so"}},
  };
}

int index_of(const std::string& device, std::size_t colon) {
  int index = 0;
  const char* end = device.data() + device.size();
  const auto [last, error] = std::from_chars(device.data() + colon + 1, end, index);
  if (error != std::errc() || last != end || index < 0)
    throw Error("device '" + device + "': what follows the colon is no device index (0, 1, ...)");
  return index;
}

std::string existing(const std::string& path, const std::string& origin) {
  // A name without a folder would be looked for in the linker's folders only.
  if (fs::is_regular_file(path)) return fs::absolute(path).string();
  throw Error("there is no PJRT plugin '" + path + "', which " + origin +
              " names: give the path of one, or leave it out for the installed one");
}

std::string path_of(const Kind& kind, const std::string& plugin) {
  if (!plugin.empty()) return existing(plugin, "the option 'plugin'");
  if (const std::string named = variable(kind.variable); !named.empty())
    return existing(named, std::string("the variable ") + kind.variable);
  const fs::path folder = site_packages();
  std::string tried;
  for (const fs::path& place : kind.places) {
    const std::string path = (folder / place).string();
    if (fs::is_regular_file(path)) return path;
    tried += (tried.empty() ? "" : ", ") + path;
  }
  throw Error(std::string("no PJRT plugin for device '") + kind.name + "' was found (looked for " + tried +
              "): " + kind.remedy + ", or set " + kind.variable + " to a plugin's path");
}

}  // namespace

std::string pip_install(const std::string& what) {
  // site-packages lies in lib/pythonX.Y of the environment.
  std::error_code error;
  const fs::path python = site_packages().parent_path().parent_path().parent_path() / "bin" / "python";
  std::string program = python.string();
  if (program.find_first_of(" \t\"'$&;()*?[]<>|\\`") != std::string::npos) {
    for (std::size_t at = 0; (at = program.find('\'', at)) != std::string::npos; at += 4)
      program.replace(at, 1, "'\\''");
    program = "'" + program + "'";
  }
  return (fs::exists(python, error) ? program + " -m " : std::string()) + "pip install '" + what + "'";
}

int cuda_release_of(const std::string& plugin) {
  const std::string mark = "xla_cuda";
  const std::size_t found = plugin.rfind(mark + "_plugin") == std::string::npos
                                ? plugin.rfind(mark)
                                : plugin.rfind(mark, plugin.rfind(mark + "_plugin") - 1);
  if (found == std::string::npos) return 0;
  int release = 0;
  for (std::size_t i = found + mark.size(); i < plugin.size() && std::isdigit(plugin[i]); ++i)
    release = 10 * release + (plugin[i] - '0');
  return release;
}

std::vector<std::string> cuda_folders(const std::string& plugin) {
  const int release = cuda_release_of(plugin);
  const fs::path package = fs::path("nvidia") / (release == 12 ? "cuda_nvcc" : "cu" + std::to_string(release));
  std::vector<std::string> folders = {
      (fs::path(plugin).parent_path() / ".." / ".." / package).lexically_normal().string(),
      (site_packages() / package).string()};
  for (const char* root : {"CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX"})
    if (const std::string folder = variable(root); !folder.empty()) folders.push_back(folder);
  folders.push_back("/usr/local/cuda-" + std::to_string(release));
  folders.push_back("/usr/local/cuda");
  return folders;
}

std::string cuda_folder(const std::string& plugin) {
  if (variable("XLA_FLAGS").find("xla_gpu_cuda_data_dir") != std::string::npos) return "";
  for (const fs::path folder : cuda_folders(plugin))
    if (std::error_code error; fs::exists(folder / "bin" / "ptxas", error) &&
                               fs::exists(folder / "nvvm" / "libdevice" / "libdevice.10.bc", error))
      return folder.string();
  return "";
}

std::vector<std::string> nvrtc_paths(int release, const std::string& plugin) {
  if (const std::string named = variable("SO3KRATES_NVRTC"); !named.empty()) return {named};
  std::vector<fs::path> packages = {site_packages()};
  if (!plugin.empty()) packages.push_back(fs::path(plugin).parent_path() / ".." / "..");
  std::vector<std::string> paths;
  const auto add = [&](const fs::path& path) {
    const std::string text = path.lexically_normal().string();
    if (std::find(paths.begin(), paths.end(), text) == paths.end()) paths.push_back(text);
  };
  for (int k = release; k >= 12; --k) {  // from 13 on NVIDIA's packages share one folder
    const std::string number = std::to_string(k), name = "libnvrtc.so." + number;
    for (const fs::path& folder : packages)
      add(folder / "nvidia" / (k == 12 ? "cuda_nvrtc" : "cu" + number) / "lib" / name);
    add(name);
    for (const char* root : {"CONDA_PREFIX", "CUDA_HOME", "CUDA_PATH"})
      for (const char* part : {"lib", "lib64"})
        if (const std::string folder = variable(root); !folder.empty()) add(fs::path(folder) / part / name);
    add(fs::path("/usr/local/cuda/lib64") / name);
    add(fs::path("/usr/local/cuda-" + number) / "lib64" / name);
  }
  return paths;
}

std::string shipped_potential(const std::string& name) {
  if (name.empty() || name.find('/') != std::string::npos) return {};
  const fs::path folder = site_packages() / "so3krates" / "potentials";
  std::error_code error;
  for (const std::string& file : {name + ".so3k", name})
    if (fs::exists(folder / file, error)) return (folder / file).string();
  return {};
}

std::string looked_for(const std::string& path) {
  std::error_code error;
  const fs::path given(path), here = fs::current_path(error);
  if (path.empty() || error || fs::exists(given, error)) return {};
  const fs::path folder = (here / given).lexically_normal().parent_path();
  if (!fs::is_directory(folder, error)) return "; there is no folder " + folder.string();
  if (given.is_absolute()) return {};
  return "; looked for in " + folder.string() +
         (given.has_parent_path() ? "" : ", and among the potentials of the package");
}

std::string platform_of(const std::string& device) {
  const std::string name = device.substr(0, device.find(':'));
  for (const Kind& kind : kinds())
    if (name == kind.name && (name != "cpu" || device == name)) return name;
  return {};
}

PluginChoice find_plugin(const std::string& device, const std::string& plugin) {
  const std::string platform = platform_of(device);
  const std::size_t colon = device.find(':');
  for (const Kind& kind : kinds()) {
    if (platform != kind.name) continue;
    const int index = colon == std::string::npos ? 0 : index_of(device, colon);
    return {path_of(kind, plugin), index, platform};
  }
  throw Error("unknown device '" + device +
              "': choose cpu, cuda, rocm or oneapi, of GPUs also one by its index: cuda:0");
}

}  // namespace so3krates
