// The plugin's one exported function, and what the plugin says of itself. Entries that the runtime never calls stay
// null.
#include <cstdlib>
#include <cstring>

#include "absl/base/log_severity.h"
#include "absl/log/globals.h"
#include "handles.h"

extern "C" const char* TF_Version(void);  // of the library that was found at run time

namespace so3krates::pjrt_cpu {
namespace {

PJRT_Error* initialise(PJRT_Plugin_Initialize_Args*) {
  const absl::string_view found = TF_Version();
  if (found != SO3KRATES_TENSORFLOW_VERSION)
    return to_error(absl::FailedPreconditionError(
        absl::StrCat("it was built for tensorflow-cpu " SO3KRATES_TENSORFLOW_VERSION " and found ", found,
                     ": pip install 'tensorflow-cpu==" SO3KRATES_TENSORFLOW_VERSION "'")));
  // Failures are returned; what XLA logs besides (on loading a program of its own, say) only alarms. 0 asks for all.
  const char* level = std::getenv("TF_CPP_MIN_LOG_LEVEL");
  if (level == nullptr || absl::string_view(level) != "0") absl::SetMinLogLevel(absl::LogSeverityAtLeast::kFatal);
  return nullptr;
}

PJRT_NamedValue named(const char* name, PJRT_NamedValue_Type type, std::size_t size) {
  PJRT_NamedValue value{};
  value.struct_size = PJRT_NamedValue_STRUCT_SIZE;
  value.name = name;
  value.name_size = std::strlen(name);
  value.type = type;
  value.value_size = size;
  return value;
}

PJRT_Error* attributes(PJRT_Plugin_Attributes_Args* args) {
  static const std::vector<PJRT_NamedValue> values = [] {
    std::vector<PJRT_NamedValue> v = {
        named("so3krates_pjrt_cpu", PJRT_NamedValue_kInt64, 1),
        named("tensorflow_version", PJRT_NamedValue_kString, std::strlen(SO3KRATES_TENSORFLOW_VERSION)),
    };
    v[0].int64_value = 1;
    v[1].string_value = SO3KRATES_TENSORFLOW_VERSION;
    return v;
  }();
  args->attributes = values.data();
  args->num_attributes = values.size();
  return nullptr;
}

PJRT_Api make_api() {
  PJRT_Api api{};
  api.struct_size = PJRT_Api_STRUCT_SIZE;
  api.extension_start = &ffi_extension()->base;
  api.pjrt_api_version = {PJRT_Api_Version_STRUCT_SIZE, nullptr, PJRT_API_MAJOR, PJRT_API_MINOR};
  api.PJRT_Plugin_Initialize = initialise;
  api.PJRT_Plugin_Attributes = attributes;
  add_errors_and_events(api);
  add_client(api);
  add_buffers(api);
  add_executables(api);
  add_execute_context(api);
  return api;
}

}  // namespace
}  // namespace so3krates::pjrt_cpu

extern "C" __attribute__((visibility("default"))) const PJRT_Api* GetPjrtApi() {
  static const PJRT_Api api = so3krates::pjrt_cpu::make_api();
  return &api;
}
