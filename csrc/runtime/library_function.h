// Functions of libraries that are opened at run time.
#pragma once

#include <dlfcn.h>
#include <link.h>

#include <filesystem>
#include <string>
#include <system_error>

#include "error.h"

namespace so3krates {

// Throws Error where `library` lacks it: names the file, links followed, whose name often ends in the version.
// what: the library in words. remedy: what to do.
template <typename Pointer>
void load_function(void* library, const char* name, Pointer& function, const std::string& what,
                   const std::string& remedy) {
  function = reinterpret_cast<Pointer>(dlsym(library, name));
  if (function != nullptr) return;
  link_map* loaded = nullptr;
  std::string file;
  if (dlinfo(library, RTLD_DI_LINKMAP, &loaded) == 0) {
    std::error_code error;
    const std::filesystem::path path = std::filesystem::canonical(loaded->l_name, error);
    file = " (" + (error ? std::string(loaded->l_name) : path.string()) + ")";
  }
  throw Error(what + file + " has no function " + name + ", so it is too old or another library: " + remedy);
}

}  // namespace so3krates
