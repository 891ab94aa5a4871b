// Plugins lie where pip puts them: in the site-packages folder that this library is in.
#include "plugin_search.h"

#include <dlfcn.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <vector>

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

Kind cpu() {
  return {"cpu", "SO3KRATES_PJRT_CPU", pip_install(SO3KRATES_CPU_RUNTIME), {"fastatomstruct_xla_cpu/libpjrt_cpu.so"}};
}

Kind cuda() {
  return {"cuda",
          "SO3KRATES_PJRT_CUDA",
          pip_install("so3krates[cuda12]") + " (or [cuda13], where nvidia-smi shows CUDA 13)",
          {"jax_plugins/xla_cuda13/xla_cuda_plugin.so", "jax_plugins/xla_cuda12/xla_cuda_plugin.so"}};
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
  if (fs::is_regular_file(path)) return path;
  throw Error("there is no PJRT plugin '" + path + "', which " + origin + " names");
}

std::string path_of(const Kind& kind, const std::string& plugin) {
  if (!plugin.empty()) return existing(plugin, "the option 'plugin'");
  const char* variable = std::getenv(kind.variable);
  if (variable != nullptr && *variable != '\0') return existing(variable, std::string("the variable ") + kind.variable);
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
  return (fs::exists(python, error) ? python.string() + " -m " : std::string()) + "pip install '" + what + "'";
}

std::vector<std::string> nvrtc_paths(int release) {
  const char* variable = std::getenv("SO3KRATES_NVRTC");
  if (variable != nullptr && *variable != '\0') return {variable};
  const fs::path nvidia = site_packages() / "nvidia";
  std::vector<std::string> paths;
  for (int k = release; k >= 12; --k) {
    const std::string name = "libnvrtc.so." + std::to_string(k);
    const fs::path folder = k == 12 ? fs::path("cuda_nvrtc") : fs::path("cu" + std::to_string(k));
    paths.push_back((nvidia / folder / "lib" / name).string());
    paths.push_back(name);
  }
  return paths;
}

PluginChoice find_plugin(const std::string& device, const std::string& plugin) {
  const std::size_t colon = device.find(':');
  const std::string name = device.substr(0, colon);
  if (device == "cpu") return {path_of(cpu(), plugin), 0};
  if (name == "cuda") {
    const int index = colon == std::string::npos ? 0 : index_of(device, colon);
    return {path_of(cuda(), plugin), index};
  }
  throw Error("unknown device '" + device + "': choose cpu, cuda or cuda:INDEX");
}

}  // namespace so3krates
